"""A trajectory: the world it starts from, what each turn must come to, and the reference conversation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from data_recipes.worlds.world import World, offer
from octupus.wire.messages import Conversation, Message, Tool

TurnKind = Literal["goal", "error", "ask", "refuse", "talk"]
"""Calls reach a goal; a call fails and is reported; the right act is to ask, to refuse, to answer without a call."""


@dataclass(frozen=True)
class Call:
    name: str
    arguments: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """Equal for equal calls."""
        return json.dumps([self.name, self.arguments], sort_keys=True, ensure_ascii=False)


def objects(arguments: Mapping[str, Any] | str) -> Mapping[str, Any]:
    """A reference's arguments, which are always an object."""
    assert not isinstance(arguments, str)
    return arguments


@dataclass(frozen=True)
class Turn:
    """What the user says, what is on offer, what must be true afterwards, and how the reference does it."""

    kind: TurnKind
    user: str
    offered: tuple[str, ...]
    """Names of methods, those of another world as ``world.method``."""
    needed: tuple[Call, ...]
    """The calls that the user's wishes come to; whatever finds their ids is not among them."""
    results: tuple[str, ...]
    """What each of those gives in the end."""
    changes: int
    """How many state-changing calls the reference makes."""
    state: str
    """The world's digest after the turn."""
    messages: tuple[Message, ...]
    """The reference's assistant and tool messages."""


@dataclass(frozen=True)
class Trajectory:
    world: type[World]
    seed: int
    zh: bool
    size: int
    tools_zh: bool
    kind: str
    turns: tuple[Turn, ...]
    worlds: Mapping[str, type[World]]
    """Where the tools of other worlds come from."""

    def start(self) -> World:
        """The world as it is before the first turn."""
        return self.world(self.seed, self.zh, self.size)

    def tools(self, turn: Turn) -> tuple[Tool, ...]:
        """What is on offer in a turn."""
        return tuple(_tool(*self.find(name), self.tools_zh) for name in turn.offered)

    def find(self, offered: str) -> tuple[type[World], str]:
        """The world and the method behind an offered name."""
        world, dot, name = offered.rpartition(".")
        return (self.worlds[world] if dot else self.world), name

    def messages(self, count: int | None = None) -> list[Message]:
        """The reference conversation, or that of its first turns."""
        return [m for t in self.turns[:count] for m in (Message(role="user", content=t.user), *t.messages)]

    def conversations(self) -> Iterator[Conversation]:
        """What is trained on. Where tools join, what came before is shown again with all of them, but not learned."""
        first = 0
        for number, turn in enumerate(self.turns):
            last = number + 1 == len(self.turns)
            if last or self.turns[number + 1].offered != turn.offered:
                yield Conversation(
                    messages=tuple(self.messages(number + 1)),
                    tools=self.tools(turn),
                    learn_from=len(self.messages(first)),
                )
                first = number + 1


_TOOLS: dict[tuple[type[World], str, bool], Tool] = {}


def _tool(world: type[World], name: str, zh: bool) -> Tool:
    key = (world, name, zh)
    if key not in _TOOLS:
        _TOOLS[key] = Tool(raw=offer(world, name, zh))
    return _TOOLS[key]
