"""ToolACE: tools as JSON in the system text, calls in Python-like syntax, results as JSON arrays.

The system text only explains that syntax, so it goes. Names are mapped to ``[A-Za-z0-9_-]{1,64}`` alike in tools, calls
and results.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_recipes.sources.openai_format import tool
from octupus.data.files import records
from octupus.data.literals import calls_of
from octupus.errors import DataError
from octupus.wire.messages import Conversation, Message, ToolCall, canonical_json

HUB = "Team-ACE/ToolACE"
LICENCE = "Apache-2.0"
_INTRODUCED = "in JSON format that you can invoke:"


def rows(path: Path | None) -> Iterator[dict[str, Any]]:
    """Every row."""
    if path is None:
        raise DataError("no path", source="toolace")
    return records(path, "toolace")


def to_conversation(row: dict[str, Any]) -> Conversation:
    """See the module."""
    listed = _listed(row["system"])
    names = mapped([raw["name"] for raw in listed])
    messages: list[Message] = []
    for turn in row["conversations"]:
        text = turn["value"]
        if turn["from"] == "user":
            messages.append(Message(role="user", content=text))
        elif turn["from"] == "assistant":
            messages.append(_answer(text, names, len(messages)))
        elif turn["from"] == "tool":
            messages += _results(text, messages[-1].tool_calls if messages else (), names)
        else:
            raise DataError(f"unknown role: {turn['from']}")
    kept = ("description", "parameters")
    tools = (tool({"name": names[raw["name"]], **{k: raw[k] for k in kept if k in raw}}) for raw in listed)
    return Conversation(messages=tuple(messages), tools=tuple(tools))


def _listed(system: str) -> list[dict[str, Any]]:
    _, introduced, rest = system.partition(_INTRODUCED)
    start = (rest if introduced else system).find("[")
    try:
        value, _ = json.JSONDecoder().raw_decode((rest if introduced else system)[max(start, 0) :])
    except ValueError as error:
        raise DataError(f"the list of tools is not JSON: {error}") from error
    if not isinstance(value, list) or not all(isinstance(t, dict) and isinstance(t.get("name"), str) for t in value):
        raise DataError("the list of tools is no array of objects with names")
    return value


def mapped(names: Sequence[str]) -> dict[str, str]:
    """Each name as ``[A-Za-z0-9_-]{1,64}``; two that would become one are numbered."""
    found: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:60] or "tool"
        number, used = 1, set(found.values())
        while (new := plain if number == 1 else f"{plain}_{number}") in used:
            number += 1
        found.setdefault(name, new)
    return found


def _answer(text: str, names: Mapping[str, str], place: int) -> Message:
    """Text, calls, or text with calls behind it; a call in the midst of text would be taught as text: it is refused."""
    said, begin = text.strip(), 0
    if not (said.startswith("[") and said.endswith("]")):
        begin = min((at for name in names if (at := said.find(f"[{name}(")) >= 0), default=-1)
        if begin < 0:
            return Message(role="assistant", content=text)
    calls = []
    for number, (name, arguments) in enumerate(calls_of(said[begin:], names)):
        if name not in names:
            raise DataError(f"calls a tool that was not offered: {name}")
        calls.append(ToolCall(name=names[name], arguments=arguments, id=f"call_{place}_{number}"))
    return Message(role="assistant", content=said[:begin].strip(), tool_calls=tuple(calls))


def _results(text: str, calls: Sequence[ToolCall], names: Mapping[str, str]) -> list[Message]:
    """One message a result, which answers the first call of its name that has no answer yet, else the next one."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    entries = value if isinstance(value, list) and all(isinstance(v, dict) for v in value) and value else None
    waiting, found = list(calls), []
    for entry in entries or [{"results": text}]:
        name = names.get(str(entry.get("name")), entry.get("name"))
        answered = next((call for call in waiting if call.name == name), waiting[0] if waiting else None)
        if answered is None:
            raise DataError("tool results do not answer the calls: more results than calls")
        waiting.remove(answered)
        content = entry["results"] if entry.keys() <= {"name", "results"} and "results" in entry else entry
        shown = content if isinstance(content, str) else canonical_json(content)
        found.append(Message(role="tool", content=shown, tool_call_id=answered.id))
    return found
