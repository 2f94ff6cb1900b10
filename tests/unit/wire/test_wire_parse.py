"""The parser on what it will meet: halves of characters, cut turns, tokens that cannot stand where they stand."""

from __future__ import annotations

import pytest

from octupus.errors import WireError
from octupus.wire import (
    ArgumentsDelta,
    CallEnd,
    CallStart,
    ContentDelta,
    Message,
    Tool,
    ToolCall,
    ToolChoice,
    TurnEnd,
    Wire,
    collect,
)
from tests.support.qwen import qwen_wire
from tests.support.tiny import tiny_wire


def ids(wire: Wire, *parts: str) -> list[int]:
    added = wire.tokenizer.added_tokens
    return [i for p in parts for i in ([added[p]] if p in added else wire.tokenizer.encode(p))]


CALL, PARAMETERS, CONTENT, END = "<|FUNCTION_CALL|>", "<|PARAMETERS|>", "<|CONTENT|>", "<|endoftext|>"


def test_events_of_content_and_calls() -> None:
    wire = qwen_wire()
    parser = wire.parser()
    events = parser.feed(ids(wire, CONTENT, "ok", CALL, "f", PARAMETERS, "{}", CALL, "g", PARAMETERS, "{}", END))
    first = [ContentDelta("ok"), CallStart(0, "f"), ArgumentsDelta(0, "{}"), CallEnd(0)]
    assert events == [*first, CallStart(1, "g"), ArgumentsDelta(1, "{}"), CallEnd(1), TurnEnd()]
    assert parser.ended and parser.finish() == []


def test_text_never_splits_a_character() -> None:
    wire = qwen_wire()
    text = "x\U0001faf7\U0001f3ff龘𠮷é"  # rare ones take several tokens each
    parts = ids(wire, text)
    assert any(wire.tokenizer.decode([i]).endswith("\ufffd") for i in parts), "the case must be a real one"
    parser = wire.parser()
    deltas = [e.text for i in ids(wire, CONTENT) + parts for e in parser.feed([i]) if isinstance(e, ContentDelta)]
    assert "".join(deltas) == text and "\ufffd" not in "".join(deltas)


def test_half_a_character_at_the_end_is_shown_as_broken() -> None:
    wire = qwen_wire()
    parser = wire.parser()
    parts = ids(wire, "\U0001faf7")
    assert parser.feed(ids(wire, CONTENT) + parts[:-1]) == []
    assert parser.finish() == [ContentDelta("\ufffd")]
    other = wire.parser()
    assert other.feed(ids(wire, CONTENT) + parts[:-1] + ids(wire, END)) == [ContentDelta("\ufffd"), TurnEnd()]


def test_a_cut_call_has_no_end() -> None:
    wire = tiny_wire()
    parser = wire.parser()
    events = parser.feed(ids(wire, CALL, "f", PARAMETERS, '{"a": 1')) + parser.finish()
    assert CallEnd(0) not in events and not parser.ended
    assert collect(events) == Message(role="assistant", tool_calls=(ToolCall(name="f", arguments='{"a": 1'),))
    named = wire.parser()
    assert named.feed(ids(wire, CALL, "get_wea")) + named.finish() == [], "half a name is no call"


def test_a_grammar_refuses_other_functions() -> None:
    wire = tiny_wire()
    tool = Tool(raw={"type": "function", "function": {"name": "f"}})
    parser = wire.parser(wire.grammar([tool], choice=ToolChoice(mode="required")))
    with pytest.raises(WireError, match="'g'"):
        parser.feed(ids(wire, CALL, "g", PARAMETERS))


@pytest.mark.parametrize(
    "parts",
    [
        ("text",),
        (CONTENT, "a", CONTENT),
        (CONTENT, PARAMETERS),
        (CALL, "f", END),
        (CALL, CALL),
        (CALL, "f", PARAMETERS, "{}", PARAMETERS),
        (CONTENT, "<|USER|>", "<|USER|>"),
        (CONTENT, "<|pad|>"),
        (END, "x"),
        (END, END),
    ],
)
def test_what_cannot_stand_there_is_refused(parts: tuple[str, ...]) -> None:
    wire = tiny_wire()
    with pytest.raises(WireError):
        wire.parser().feed(ids(wire, *parts))


def test_ids_that_do_not_exist_are_refused() -> None:
    wire = tiny_wire()
    for id in (-1, wire.tokenizer.size, 10**9):
        with pytest.raises(WireError, match="no token of this tokenizer"):
            wire.parser().feed([*ids(wire, CONTENT), id])


def test_an_empty_turn_is_only_an_end() -> None:
    wire = tiny_wire()
    assert wire.parser().feed(ids(wire, END)) == [TurnEnd()]
    assert wire.parser().feed(ids(wire, CONTENT, END)) == [TurnEnd()]


@pytest.mark.parametrize("parts", [("hello",), ("<|USER|>", "a", END), ("<|ASSISTANT|>", CONTENT, "a")])
def test_ids_that_are_no_conversation_are_refused(parts: tuple[str, ...]) -> None:
    wire = tiny_wire()
    with pytest.raises(WireError):
        wire.parse(ids(wire, *parts))
