"""Conversations of a data source as prompts: what is asked, in which order, with which stable id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from octupus.data.files import value_hash
from octupus.errors import DataError
from octupus.wire.messages import Conversation, Message

CHARACTERS_PER_TOKEN = 3
"""For estimates only; Chinese has fewer, English more."""


@dataclass(frozen=True)
class Prompt:
    """What is said before the first answer, and the user's turns, each of which is answered anew.

    A chat is answered turn by turn. A conversation with tools keeps its published turns up to its last user message,
    because nothing is executed: what a tool would say to another call is not known.
    """

    id: str
    opening: tuple[dict[str, Any], ...]
    """OpenAI messages: a system text at most, or the published turns of a conversation with tools."""
    users: tuple[str, ...]
    source: str
    row: str
    tools: tuple[dict[str, Any], ...] = ()
    was: int = 0
    """Characters of the published answers in the place of which ours go; 0 where there are none."""

    @property
    def tokens(self) -> int:
        """Estimated, of the prompt."""
        said = [str(m.get("content") or "") for m in self.opening]
        return sum(map(len, (*said, *self.users, *map(str, self.tools)))) // CHARACTERS_PER_TOKEN

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Prompt:
        """From a line of the plan."""
        many = {key: tuple(row[key]) for key in ("opening", "users", "tools")}
        return cls(**{**row, **many})


def prompt_of(
    conversation: Conversation, decides: Mapping[str, Any], source: str, row: str, with_tools: bool
) -> Prompt:
    """The conversation as a prompt; its id is a hash of what is asked and of ``decides``.

    Raises:
        DataError: nothing to answer, or tools where ``with_tools`` is false.
    """
    tools = tuple(tool.raw for tool in conversation.tools)
    messages = conversation.messages
    acts = any(m.role == "tool" or m.tool_calls for m in messages)
    if (tools or acts) and not with_tools:
        raise DataError("a prompt with tools: this engine answers plain chat (teacher.engine: server answers both)")
    if acts and not tools:
        raise DataError("calls without tools")
    last = max((i for i, m in enumerate(messages) if m.role == "user"), default=-1)
    first = messages[:1] if messages[0].role == "system" else ()
    opening = messages[:last] if tools else first
    users = tuple(m.content for m in messages[len(opening) :] if m.role == "user")[: 1 if tools else None]
    if not users or not all(text.strip() for text in users):
        raise DataError("no user turn, or an empty one")
    # The keys of a plain chat are those of the first version: its answers keep their ids.
    said: dict[str, Any] = {"system": first[0].content if first else None, "users": users}
    if tools:
        said |= {"opening": [_openai(m) for m in opening], "tools": tools}
    try:
        identity = value_hash({**said, **decides})[:32]
    except ValueError as error:  # lone surrogates, NaN
        raise DataError("not well-formed text") from error
    was = sum(len(m.content) for m in messages[len(opening) :] if m.role == "assistant")
    return Prompt(identity, tuple(map(_openai, opening)), users, source, row, tools, was)


def _openai(message: Message) -> dict[str, Any]:
    """A message in OpenAI's form."""
    plain: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        plain["tool_calls"] = [
            {
                "id": call.id or f"call_{i}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments_text},
            }
            for i, call in enumerate(message.tool_calls)
        ]
    return plain
