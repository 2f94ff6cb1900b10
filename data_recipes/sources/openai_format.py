"""Rows in OpenAI's form: ``messages`` (or ``conversation``) and ``tools``, each a value or a JSON string of one.

Also reads the forerunner's converted sets (``hqfx/hermes_fc_oai``, ``hqfx/fc_zh_hard_oai``, ``hqfx/tool_ace_cleaned``)
and plain ShareGPT rows (``conversations`` of ``from`` and ``value``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from octupus.data.files import records
from octupus.data.schemas import repaired
from octupus.errors import DataError
from octupus.wire.messages import Conversation, Message, Tool, ToolCall, canonical_json

ROLES = {"function": "tool", "developer": "system", "human": "user", "gpt": "assistant"}

LICENCE = "as the files state"
HUB: str | None = None


def rows(path: Path | None, repair: bool = True) -> Iterator[dict[str, Any]]:
    """Every row of the files at ``path``; ``repair`` turns ``dict``, ``int``, ``float`` in schemas into JSON Schema."""
    if path is None:
        raise DataError("this source reads files: give it a `path` in the recipe", source="openai_format")
    for row in records(path, "openai_format"):
        yield row if repair else {**row, "repair": False}


def to_conversation(row: dict[str, Any]) -> Conversation:
    """See the module; a developer message is a system message, reasoning is left out."""
    found = next((row[key] for key in ("messages", "conversation", "conversations") if row.get(key) is not None), None)
    messages = parsed(found, "messages")
    tools = parsed(row.get("tools") or row.get("functions"), "tools") or []
    if not isinstance(messages, list) or not messages:
        raise DataError("no messages: none of `messages`, `conversation`, `conversations` holds a list")
    if not isinstance(tools, list):
        raise DataError("tools are no list")
    if messages[0].get("role", messages[0].get("from")) == "system" and not text(said(messages[0])).strip():
        messages = messages[1:]  # an empty system text says nothing: the default one takes its place
    return Conversation(
        messages=tuple(message(m, i) for i, m in enumerate(messages)),
        tools=tuple(tool(t, row.get("repair", True)) for t in tools),
    )


def parsed(value: Any, what: str) -> Any:
    """The value itself, or what its JSON string holds."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise DataError(f"{what} is not JSON: {error}") from error


def tool(raw: Any, repair: bool = True) -> Tool:
    """A tool in OpenAI's form; a bare function object is wrapped."""
    if not isinstance(raw, Mapping):
        raise DataError(f"a tool is no object: {type(raw).__name__}")
    function = raw["function"] if isinstance(raw.get("function"), Mapping) else raw
    function = {k: v for k, v in function.items() if v is not None and k != "type"}
    if repair and function.get("parameters"):
        function["parameters"] = repaired(parsed(function["parameters"], "a tool's parameters"))
    return Tool(raw={"type": "function", "function": function})


def message(raw: Any, at: int) -> Message:
    """One message; ``function_call`` (the older form) becomes one of ``tool_calls``, ``function`` becomes ``tool``."""
    if not isinstance(raw, Mapping):
        raise DataError(f"a message is no object: message {at}")
    role = raw["role"] if raw.get("role") is not None else raw["from"]
    role = ROLES.get(role, role)
    calls = parsed(raw.get("tool_calls") or [], "tool_calls")
    old = parsed(raw.get("function_call"), "function_call")
    if old and any(old.values()):  # parquet may hold an object of nulls where there is no call
        calls = [*calls, {"function": old}]
    fields = {"role": role, "content": text(said(raw)), "tool_calls": tuple(call(c) for c in calls)}
    if role == "tool":
        fields["tool_call_id"] = raw.get("tool_call_id")
    return Message.model_validate(fields)


def said(raw: Mapping[str, Any]) -> Any:
    """A message's content, under either of its names."""
    return raw["content"] if raw.get("content") is not None else raw.get("value")


def call(raw: Mapping[str, Any]) -> ToolCall:
    """One call; arguments may be the JSON text or the object."""
    function = raw["function"] if isinstance(raw.get("function"), Mapping) else raw
    arguments = function["arguments"]
    if isinstance(arguments, str):
        return ToolCall.from_text(function["name"], arguments, raw.get("id"))
    return ToolCall(name=function["name"], arguments=without_none(arguments), id=raw.get("id"))


def without_none(value: Mapping[str, Any]) -> dict[str, Any]:
    """Parquet gives every object of a column the same keys; those that a row did not have come back as None."""
    return {k: _filled(v) for k, v in value.items() if v is not None}


def _filled(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_none(value)
    return [_filled(v) for v in value] if isinstance(value, list) else value


def text(content: Any) -> str:
    """Content as text: None is empty, text parts are joined, any other value is JSON."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(isinstance(p, Mapping) and p.get("type") == "text" for p in content):
        return "".join(str(part["text"]) for part in content)
    return canonical_json(content)
