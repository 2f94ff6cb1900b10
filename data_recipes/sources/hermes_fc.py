"""hermes-function-calling-v1: tools in the system text, calls and results as tagged JSON or Python literals in turns.

The system text only explains that format, so it goes; ours stands in its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_recipes.sources.openai_format import tool
from octupus.data.files import data_files, records
from octupus.data.literals import value_of
from octupus.errors import ConfigError, DataError
from octupus.wire.messages import Conversation, Message, ToolCall, canonical_json

HUB = "NousResearch/hermes-function-calling-v1"
LICENCE = "Apache-2.0"
FILES = {
    "func_calling_singleturn": "func-calling-singleturn.json",
    "func_calling": "func-calling.json",
    "glaive_func_calling": "glaive-function-calling-5k.json",
}
_TOOLS = re.compile(r"<tools>(.*?)</tools>", re.DOTALL)
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_RESULT = re.compile(r"<tool_response>(.*?)</tool_response>", re.DOTALL)


def rows(path: Path | None, config: str = "func_calling") -> Iterator[dict[str, Any]]:
    """Rows of one config; ``path`` may be the data set's folder or that config's own file."""
    if path is None or config not in FILES:
        raise ConfigError(f"hermes_fc: no config {config!r}; choose one of: {', '.join(FILES)}")
    files = data_files(path, "hermes_fc")
    own = [file for file in files if file.name == FILES[config]] or [f for f in files if f.parent.name == config]
    if not own and path.is_dir():
        raise DataError(f"{path} holds no {FILES[config]}; name that config's file", source="hermes_fc")
    for file in own or files:
        yield from records(file, "hermes_fc")


def to_conversation(row: dict[str, Any]) -> Conversation:
    """See the module; results answer the calls before them in their order."""
    turns = row["conversations"]
    listed = [raw for turn in turns if turn["from"] == "system" for raw in _listed(turn["value"])]
    if not listed and row.get("tools"):
        listed = value_of(row["tools"], "tools") if isinstance(row["tools"], str) else row["tools"]
    messages: list[Message] = []
    for turn in turns:
        if turn["from"] == "human":
            messages.append(Message(role="user", content=turn["value"]))
        elif turn["from"] == "gpt":
            messages.append(_answer(turn["value"]))
        elif turn["from"] == "tool":
            bodies = _RESULT.findall(turn["value"]) or [turn["value"]]
            messages += [Message(role="tool", content=_result(body.strip())) for body in bodies]
        elif turn["from"] != "system":
            raise DataError(f"unknown role: {turn['from']}")
    return Conversation(messages=tuple(messages), tools=tuple(tool(raw) for raw in listed))


def _listed(system: str) -> list[Any]:
    found = [raw for body in _TOOLS.findall(system) if body.strip() for raw in [value_of(body, "the list of tools")]]
    return [raw for value in found for raw in (value if isinstance(value, list) else [value])]


def _answer(text: str) -> Message:
    content, mark, _ = text.partition("<tool_call>")
    calls = [_call(value_of(body, "a call")) for body in _CALL.findall(text)]
    if mark and (not calls or _CALL.sub("", text[len(content) :]).strip()):
        raise DataError(f"a call that is not closed, or text after it: {text[-80:]}")
    return Message(role="assistant", content=content.strip() if mark else text, tool_calls=tuple(calls))


def _call(value: Any) -> ToolCall:
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise DataError(f"a call without a name: {str(value)[:80]}")
    arguments = value.get("arguments")
    if isinstance(arguments, str):
        arguments = value_of(arguments, "a call's arguments")
    return ToolCall.model_validate({"name": value["name"], "arguments": {} if arguments is None else arguments})


def _result(body: str) -> str:
    """The content of ``{"name", "content"}``; anything else as it stands."""
    try:
        value = value_of(body, "a result")
    except DataError:  # a result may be any text
        return body
    if isinstance(value, Mapping) and "content" in value and value.keys() <= {"name", "content", "tool_call_id"}:
        return value["content"] if isinstance(value["content"], str) else canonical_json(value["content"])
    return body
