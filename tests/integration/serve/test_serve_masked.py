"""Foreign engines keep to the constraint or fail loudly; tools that no call satisfies; the constraint switched off."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import openai
import pytest

from octupus.config import ServeSection
from octupus.serve.engines import Sampling, factory
from octupus.serve.masked import MaskedEngine
from octupus.wire import CallGrammar, Conversation, Message, Tool, ToolCall
from tests.support.served import served
from tests.support.tiny import tiny_folder, tiny_wire

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "Rome"]},
        "at": {"type": "object", "properties": {"hour": {"type": "integer"}}},
    },
    "required": ["city"],
}
TOOL = {"type": "function", "function": {"name": "book", "parameters": SCHEMA}}
NEVER = {"type": "object", "properties": {"a": {"type": "string", "enum": [1]}}, "required": ["a"]}
IMPOSSIBLE = {"type": "function", "function": {"name": "impossible", "parameters": NEVER}}
ORDERED = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^x"}, "b": {"type": "string"}}}
ORDERED_TOOL = {"type": "function", "function": {"name": "ordered", "parameters": ORDERED}}


def turn(calls: Sequence[tuple[str, Any]], text: str = "") -> list[int]:
    """An assistant's turn as ids, whatever the schemas say."""
    wire = tiny_wire()
    made = tuple(ToolCall(name=name, arguments=arguments) for name, arguments in calls)
    tools = tuple(Tool(raw={"type": "function", "function": {"name": n}}) for n in dict.fromkeys(n for n, _ in calls))
    said = (Message(role="user", content="?"), Message(role="assistant", content=text, tool_calls=made))
    ((_, ids),) = wire.turns(wire.render(Conversation(messages=said, tools=tools)))
    return ids


class Says:
    """Writes the same ids in any case."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    async def generate(
        self, request_id: str, prompt_ids: list[int], grammar: CallGrammar | None, sampling: Sampling
    ) -> AsyncGenerator[tuple[list[int], str | None], None]:
        for start in range(0, len(self.ids), 3):
            yield self.ids[start : start + 3], "stop" if start + 3 >= len(self.ids) else None

    async def abort(self, request_id: str) -> None:
        return None

    async def close(self) -> None:
        return None


def ask(ids: list[int], tools: Sequence[dict[str, Any]] = (TOOL,), **more: Any) -> Any:
    """The answer of a server whose engine says ``ids``, and its headers."""
    section = {"constraint": more.pop("constraint", {})}
    make = lambda s: MaskedEngine(Says(ids), tiny_wire(), s.constraint)  # noqa: E731
    with served(make, canary=False, max_model_len=4096, **section) as server:
        create = server.client.chat.completions.with_raw_response.create
        raw = create(model="any", messages=[{"role": "user", "content": "Go"}], tools=list(tools), **more)
        return raw.parse().choices[0], raw.headers


def test_what_is_allowed_passes_unchanged() -> None:
    choice, headers = ask(turn([("book", {"city": "Rome", "at": {"hour": 7}}), ("book", {"city": "Paris"})], "Sure."))
    calls = [(c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls]
    assert calls == [("book", {"city": "Rome", "at": {"hour": 7}}), ("book", {"city": "Paris"})]
    assert choice.message.content == "Sure." and "X-Octupus-Uncallable" not in headers


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        ([("book", {"city": "Oslo"})], ["token ", "'book'", "/city", "keyword 'enum'"]),
        ([("book", {"city": "Rome", "at": {"hour": "x"}})], ["/at/hour", "keyword 'type'"]),
        ([("book", {})], ["keyword 'required'"]),
        ([("book", {"city": "Rome", "at": {"minute": 1}})], ["/at/minute", "keyword 'additionalProperties'"]),
        ([("book", {"city": "Rome"}), ("fly", {})], ["'fly' cannot be called", "callable: book"]),
        ([("ordered", {"b": "y", "a": "x"})], ["another order", "keyword 'properties'"]),
    ],
)
def test_what_is_not_allowed_fails_with_token_pointer_and_keyword(calls: list[Any], words: list[str]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(turn(calls), [TOOL, ORDERED_TOOL] if calls[0][0] == "ordered" else [TOOL])
    for word in ["does not allow it here", *words]:
        assert word in str(caught.value)
    off, _ = ask(turn(calls), constraint={"enforce": False})
    got = [(c.function.name, json.loads(c.function.arguments)) for c in off.message.tool_calls]
    assert got == calls, "without the constraint it passes as it is"


def test_a_call_that_is_not_asked_for_fails() -> None:
    with pytest.raises(openai.BadRequestError, match="cannot be called"):
        ask(turn([("book", {"city": "Rome"})]), tool_choice="none")
    with pytest.raises(openai.BadRequestError, match="no call that can be read"):
        ask(turn([], "Just text."), tool_choice="required")


def test_the_factory_puts_the_mask_around_foreign_engines_only() -> None:
    section = ServeSection(engine="eval.oracle:Oracle", engine_args={"categories": ["simple_python"]})
    try:
        made = factory(section.engine, tiny_folder(), tiny_wire(), section)()
    except Exception as error:  # no BFCL data on this machine
        pytest.skip(str(error))
    assert isinstance(made, MaskedEngine) and made.died() is None
    scripted = factory("scripted", tiny_folder(), tiny_wire(), ServeSection(engine="scripted"))()
    assert not isinstance(scripted, MaskedEngine)


def test_a_tool_that_no_call_can_satisfy_is_shown_and_not_callable() -> None:
    choice, headers = ask(turn([("book", {"city": "Rome"})]), [IMPOSSIBLE, TOOL])
    assert choice.message.tool_calls[0].function.name == "book" and headers["X-Octupus-Uncallable"] == "impossible"
    choice, headers = ask(turn([], "I cannot."), [IMPOSSIBLE])
    assert choice.message.content == "I cannot." and headers["X-Octupus-Uncallable"] == "impossible"
    choice, headers = ask(turn([("book", {"city": "Rome"})]), [IMPOSSIBLE, TOOL], tool_choice="required")
    assert choice.message.tool_calls[0].function.name == "book"
    with pytest.raises(openai.BadRequestError, match="cannot be called"):
        ask(turn([("impossible", {"a": "1"})]), [IMPOSSIBLE, TOOL])
    named = {"type": "function", "function": {"name": "impossible"}}
    for tools, tool_choice in (([IMPOSSIBLE], "required"), ([IMPOSSIBLE, TOOL], named)):
        with pytest.raises(openai.BadRequestError, match="no value satisfies"):
            ask(turn([("book", {"city": "Rome"})]), tools, tool_choice=tool_choice)
    _, headers = ask(turn([], "No."), [IMPOSSIBLE], tool_choice="none")
    assert "X-Octupus-Uncallable" not in headers


def test_the_prompt_still_shows_it() -> None:
    seen: list[str] = []

    class Looks(Says):
        async def generate(self, request_id: str, prompt_ids: list[int], grammar: Any, sampling: Any) -> Any:
            seen.append(tiny_wire().decode(prompt_ids))
            async for step in super().generate(request_id, prompt_ids, grammar, sampling):
                yield step

    with served(lambda s: Looks(turn([], "No.")), canary=False, max_model_len=4096) as server:
        server.client.chat.completions.create(
            model="any", messages=[{"role": "user", "content": "Go"}], tools=[IMPOSSIBLE, TOOL]
        )
    assert '"impossible"' in seen[0] and '"book"' in seen[0]
