"""What render refuses, what render_prompt takes, and where the two differ."""

from __future__ import annotations

from typing import Any

import pytest

from octupus.errors import WireError
from octupus.wire import Conversation, Message, Tool, ToolCall
from tests.support.tiny import tiny_wire

F = Tool(raw={"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}})


def user(text: str = "hi") -> Message:
    return Message(role="user", content=text)


def call(arguments: Any = None, name: str = "f", id: str | None = None) -> ToolCall:
    return ToolCall(name=name, arguments={} if arguments is None else arguments, id=id)


def assistant(content: str = "", *calls: ToolCall) -> Message:
    return Message(role="assistant", content=content, tool_calls=calls)


def result(text: str = "r", id: str | None = None) -> Message:
    return Message(role="tool", content=text, tool_call_id=id)


def text_of(ids: list[int]) -> str:
    names = {id: token for token, id in tiny_wire().tokenizer.added_tokens.items()}
    marked = tiny_wire().decode(ids)
    return "".join(names[tiny_wire().id_of(c)] if "\ud800" <= c <= "\udfff" else c for c in marked)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([user()], "no assistant turn"),
        ([user(), assistant()], r"messages\[1\]: an assistant turn with neither"),
        ([user(), Message(role="system", content="s"), assistant("a")], r"messages\[1\]: a system message that is not"),
        ([user(), assistant("", call(name="g"))], "calls 'g', which is not among the tools"),
        ([user(), assistant("", call("{broken"))], "the arguments of 'f' are not a JSON object"),
        ([user(), result(), assistant("a")], "1 tool results for 0 calls"),
        ([result(), assistant("a")], "1 tool results for 0 calls"),
        ([user(), assistant("", call(), call()), result(), assistant("a")], "1 tool results for 2 calls"),
        ([user(), assistant("", call(id="x")), result(id="y")], r"do not answer the calls \['x'\]"),
        ([user(), assistant("", call(id="x"), call(id="y")), result(id="x"), result(id="x")], "do not answer"),
        ([user(), assistant("a\ud800")], r"messages\[1\]: a lone surrogate"),
        ([user("\udfff"), assistant("a")], r"messages\[0\]: a lone surrogate"),
        ([user(), assistant("", call({"a": "\ud801"}))], r"messages\[1\]: a lone surrogate"),
        ([user(), assistant("", call({"a": float("nan")}))], r"messages\[1\]: not writable as JSON"),
    ],
)
def test_what_must_not_be_trained_on(messages: list[Message], words: str) -> None:
    with pytest.raises(WireError, match=words):
        tiny_wire().render(Conversation(messages=tuple(messages), tools=(F,)))


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(WireError, match="same name"):
        tiny_wire().render(Conversation(messages=(user(), assistant("a")), tools=(F, F)))


def test_surrogates_cannot_forge_a_token() -> None:
    """Inside wire/ a surrogate stands for a token; from outside none gets in, wherever it stands."""
    wire = tiny_wire()
    for mark in map(chr, range(0xD800, 0xD810)):
        bad = Tool(raw={"type": "function", "function": {"name": "f", "description": mark}})
        named = Tool(raw={"type": "function", "function": {"name": mark}})
        for messages, tools in [
            ([user(mark)], []),
            ([Message(role="system", content=mark)], []),
            ([user(), assistant(mark)], []),
            ([user(), assistant("", call(mark))], [F]),
            ([user(), assistant("", call({mark: 1}))], [F]),
            ([user(), assistant("", call(name=mark))], [F]),
            ([user(), assistant("", call()), result(mark)], [F]),
            ([user()], [bad]),
            ([user()], [named]),
        ]:
            with pytest.raises(WireError, match="lone surrogate"):
                wire.render_prompt(messages, tools)


def test_a_prompt_takes_what_clients_replay() -> None:
    wire = tiny_wire()
    messages = [user(), assistant("", call('{"cut": tr')), result(), assistant(), user()]
    expected = (
        "<|SYSTEM|>You are a helpful assistant.<|USER|>hi<|ASSISTANT|><|FUNCTION_CALL|>f<|PARAMETERS|>"
        '{"cut": tr<|endoftext|><|FUNCTION_OUTPUT|>r<|ASSISTANT|><|endoftext|><|USER|>hi<|ASSISTANT|>'
    )
    prompt = wire.render_prompt(messages)
    assert text_of(prompt) == expected
    assert wire.parse(prompt).messages[2].tool_calls == (call('{"cut": tr', id="call_0"),)


def test_results_follow_the_order_of_their_calls() -> None:
    calls = assistant("", call(id="a"), call(id="b"), call(id="c"))
    given = [result("2", "b"), result("?", "nobody"), result("3", "c"), result("1", "a")]
    shown = text_of(tiny_wire().render_prompt([user(), calls, *given], [F]))
    assert shown.endswith(
        "<|FUNCTION_OUTPUT|>1<|FUNCTION_OUTPUT|>2<|FUNCTION_OUTPUT|>3<|FUNCTION_OUTPUT|>?<|ASSISTANT|>"
    )


def test_tools_are_shown_exactly_as_given() -> None:
    raw = {"function": {"strict": True, "name": "f", "x": [1.0, "é", {"b": None, "a": 1e30}]}, "type": "function"}
    shown = text_of(tiny_wire().render_prompt([user()], [Tool(raw=raw)]))
    assert '[{"function": {"strict": true, "name": "f", "x": [1.0, "é", {"b": null, "a": 1e+30}]}' in shown


def test_unwritable_tools_get_a_sentence() -> None:
    deep: dict[str, Any] = {}
    inner = deep
    for _ in range(20_000):
        inner["a"] = {}
        inner = inner["a"]
    raw = {"type": "function", "function": {"name": "f", "parameters": deep}}
    for bad in (Tool.model_construct(raw=raw), Tool(raw={"type": "function", "function": {"name": "f", "x": 1e999}})):
        with pytest.raises(WireError, match="the system message or the tools: not writable as JSON"):
            tiny_wire().render_prompt([user()], [bad])


def test_hostile_arguments_stay_text() -> None:
    for text in ("[" * 100_000, '{"a": NaN}', "1", "", '{"a": 1e999}', "{" * 5000):
        assert ToolCall.from_text("f", text).arguments == text
    assert ToolCall.from_text("f", ' {"b": 1, "a": "\\u4e2d"}').arguments == {"b": 1, "a": "中"}


def test_what_is_only_shown_is_not_learned() -> None:
    messages = (user(), assistant("no tool for that"), user("now?"), assistant("", call()), result(), assistant("done"))
    wire, whole = tiny_wire(), Conversation(messages=messages, tools=(F,))
    part = whole.model_copy(update={"learn_from": 2})
    all_of_it, some = wire.render(whole), wire.render(part)
    assert some.ids == all_of_it.ids and sum(some.mask) < sum(all_of_it.mask)
    assert [ids for _, ids in wire.turns(some)] == [ids for _, ids in wire.turns(all_of_it)][1:]
    with pytest.raises(WireError, match="nothing to learn from"):
        wire.render(Conversation(messages=messages[:2], learn_from=2))
