"""Changes to tool conversations that make a model read the tools instead of remembering them; seeded by key."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any

from octupus.config import BalanceSection
from octupus.data.language import script_of
from octupus.data.store import Store
from octupus.wire.messages import Conversation, Message, Tool, ToolCall

TRIES = 8
"""Rows that are looked at for one distractor."""
_BOUND = ("$ref", "allOf", "anyOf", "oneOf", "not", "if", "dependentRequired", "dependentSchemas", "patternProperties")
"""Keywords beside ``properties`` that may name parameters: such a tool's parameters keep their names."""
NONE_FITS = {
    "Latin": (
        "None of the tools that I have can do this.",
        "I have no tool for that. If you can give me one, I will gladly use it.",
        "The functions at hand do not cover this request, so I cannot carry it out.",
        "That is outside what my tools can do.",
    ),
    "Han": (
        "我现有的工具都无法完成这件事。",
        "没有适合这个请求的工具；如果能提供相应的工具，我很乐意使用。",
        "目前可用的函数不支持这个请求，所以我无法执行。",
        "这超出了我现有工具的能力范围。",
    ),
}
"""Answers where the right tool is missing."""


@dataclass(frozen=True)
class Augmentation:
    """One conversation in, one out: the right tool removed, distractors, a new order, new names, each by its share."""

    balance: BalanceSection
    seed: int

    def __call__(self, conversation: Conversation, key: int, store: Store) -> Conversation:
        """The same for the same key, in whatever process and order; distractors come from the same store."""
        if not conversation.tools:
            return conversation
        rng, b = Random(f"{self.seed}:{key}"), self.balance
        if _always_calls(conversation):  # to others a stranger's tool may be the right one
            known = [tool.name for tool in conversation.tools]
            if rng.random() < b.irrelevance:
                conversation = without_the_right_tool(conversation, rng)
            wanted = max(rng.randint(0, b.distractors), not conversation.tools)
            conversation = with_distractors(conversation, wanted, known, rng, store)
        if rng.random() < b.shuffle_tools:
            tools = rng.sample(conversation.tools, len(conversation.tools))
            conversation = conversation.model_copy(update={"tools": tuple(tools)})
        if rng.random() < b.mask_names:
            conversation = masked(conversation, rng)
        return conversation


def _always_calls(conversation: Conversation) -> bool:
    """Whether every user's turn leads to a call: no refusal and no question, which a stranger's tool could undo."""
    roles = [("calls" if m.tool_calls else m.role) for m in conversation.messages if m.role != "tool"]
    return "calls" in roles and all(after == "calls" for m, after in pairwise(roles) if m == "user")


def without_the_right_tool(conversation: Conversation, rng: Random) -> Conversation:
    """Up to the first calls, whose tools go; what stands instead is a text that says so."""
    messages = conversation.messages
    at = next((i for i, m in enumerate(messages) if m.tool_calls), None)
    if at is None:
        return conversation
    called = {call.name for call in messages[at].tool_calls}
    said = rng.choice(NONE_FITS["Han" if script_of(conversation) == "Han" else "Latin"])
    answered = (*messages[:at], Message(role="assistant", content=said))
    return Conversation(messages=answered, tools=tuple(t for t in conversation.tools if t.name not in called))


def with_distractors(
    conversation: Conversation, wanted: int, known: Collection[str], rng: Random, store: Store
) -> Conversation:
    """Up to ``wanted`` tools of other rows, none of which has a known name: one that is offered, or was."""
    tools, taken = list(conversation.tools), {_folded(name) for name in known}
    for _ in range(wanted):
        for _ in range(TRIES):
            others = store.conversation(rng.randrange(len(store))).tools
            fresh = [tool for tool in others if _folded(tool.name) not in taken]
            if fresh:
                tools.append(rng.choice(fresh))
                taken.add(_folded(tools[-1].name))
                break
    return conversation.model_copy(update={"tools": tuple(tools)})


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()) or name


def masked(conversation: Conversation, rng: Random) -> Conversation:
    """Random names for the tools that say what they do, and for their parameters where each says what it is."""
    names: dict[str, str] = {}
    parameters: dict[str, dict[str, str]] = {}
    for tool in conversation.tools:
        if tool.raw["function"].get("description"):
            names[tool.name] = _name("func", rng, names.values())
            parameters[tool.name] = _parameter_names(tool, rng)
    tools = tuple(_renamed(t, names[t.name], parameters[t.name]) if t.name in names else t for t in conversation.tools)
    messages = tuple(
        m.model_copy(update={"tool_calls": tuple(_call(c, names, parameters) for c in m.tool_calls)})
        if m.tool_calls
        else m
        for m in conversation.messages
    )
    return conversation.model_copy(update={"messages": messages, "tools": tools})


def _name(kind: str, rng: Random, taken: Any) -> str:
    while (name := f"{kind}_{rng.getrandbits(24):06x}") in taken:
        pass
    return name


def _parameter_names(tool: Tool, rng: Random) -> dict[str, str]:
    schema = tool.parameters
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(schema, dict) or not isinstance(properties, dict) or any(key in schema for key in _BOUND):
        return {}
    if not all(isinstance(inner, dict) and inner.get("description") for inner in properties.values()):
        return {}
    found: dict[str, str] = {}
    for name in properties:
        found[name] = _name("arg", rng, found.values())
    return found


def _renamed(tool: Tool, name: str, parameters: Mapping[str, str]) -> Tool:
    function = {**tool.raw["function"], "name": name}
    if parameters:
        schema = dict(function["parameters"])
        schema["properties"] = {parameters[key]: inner for key, inner in schema["properties"].items()}
        if "required" in schema:
            schema["required"] = [parameters.get(key, key) for key in schema["required"]]
        function["parameters"] = schema
    return Tool(raw={**tool.raw, "function": function})


def _call(call: ToolCall, names: Mapping[str, str], parameters: Mapping[str, Mapping[str, str]]) -> ToolCall:
    if call.name not in names or not isinstance(call.arguments, dict):
        return call
    new = parameters[call.name]
    arguments = {new.get(key, key): value for key, value in call.arguments.items()}
    return call.model_copy(update={"name": names[call.name], "arguments": arguments})
