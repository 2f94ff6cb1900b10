"""Conversations as values: what every data source converts to and every request is parsed into.

The shapes are OpenAI's chat messages, reduced to what the wire format carries.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Frozen(BaseModel):
    """Immutable, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> str:
    """``", "`` and ``": "``, not ASCII-escaped, keys in their own order: the one way JSON is written on the wire."""
    return _ENCODER.encode(value)


class ToolCall(Frozen):
    """One call. ``arguments`` is the JSON object, or the raw text of a replayed call that is no JSON object."""

    name: str
    arguments: dict[str, Any] | str
    id: str | None = None

    @classmethod
    def from_text(cls, name: str, arguments: str, id: str | None = None) -> ToolCall:
        """From OpenAI's form, where arguments are a string; text that is no JSON object is kept as it is."""
        try:
            value = json.loads(arguments)
            canonical_json(value)  # Infinity and NaN are Python's, not JSON's
        except (ValueError, RecursionError):
            value = None
        return cls(name=name, arguments=value if isinstance(value, dict) else arguments, id=id)

    @property
    def arguments_text(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else canonical_json(self.arguments)


class Message(Frozen):
    """One turn. Tool results are turns of role ``tool`` whose ``tool_call_id`` names the call they answer."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _only_assistants_call(self) -> Message:
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"a {self.role} message cannot hold tool_calls")
        if self.tool_call_id is not None and self.role != "tool":
            raise ValueError(f"a {self.role} message cannot hold tool_call_id")
        return self


class Tool(Frozen):
    """A tool in OpenAI's form, ``{"type": "function", "function": {...}}``, kept exactly as it was given."""

    raw: dict[str, Any]

    @model_validator(mode="after")
    def _has_a_name(self) -> Tool:
        function = self.raw.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise ValueError("a tool needs function.name, a non-empty string")
        if not isinstance(function.get("parameters"), dict | bool | None):
            raise ValueError("a tool's function.parameters is a JSON Schema: an object or a boolean")
        return self

    @property
    def name(self) -> str:
        name: str = self.raw["function"]["name"]
        return name

    @property
    def parameters(self) -> dict[str, Any] | bool:
        """The JSON Schema of the arguments; a function without one takes no arguments."""
        schema: dict[str, Any] | bool | None = self.raw["function"].get("parameters")
        return {"type": "object", "properties": {}, "additionalProperties": False} if schema is None else schema


class ToolChoice(Frozen):
    """What a request allows. ``names`` restricts the tools that may be called; the prompt still shows all."""

    mode: Literal["auto", "none", "required", "named"] = "auto"
    names: tuple[str, ...] | None = None
    """For ``named`` exactly one name; for ``auto`` and ``required`` the ``allowed_tools``, or None for all."""


class ResponseFormat(Frozen):
    """``text``, any JSON object, or JSON that obeys ``schema``."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: dict[str, Any] | bool | None = None


class Conversation(Frozen):
    """Messages and the tools that were on offer."""

    messages: tuple[Message, ...] = Field(min_length=1)
    tools: tuple[Tool, ...] = ()
    learn_from: int = Field(default=0, ge=0)
    """Assistant turns before this message are shown but not learned: they were right when fewer tools were on offer."""

    @property
    def supervised(self) -> bool:
        return any(m.role == "assistant" for m in self.messages[self.learn_from :])
