"""The outer automaton: which special tokens may come when, rollback, forced tokens, refusals."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from octupus.constrain import CallState, Constraint, Vocabulary
from octupus.errors import ConstraintError
from octupus.wire import Conversation, Message, ResponseFormat, ToolCall, ToolChoice, Wire
from tests.unit.constrain.setting import setting
from tests.unit.constrain.walk import TOOLS, tools

DIALECTS = ["octupus", "qwen2_5"]


def start(dialect: str, specs: Any = TOOLS, **options: Any) -> tuple[Wire, Constraint, CallState]:
    wire, constraint = setting(dialect)
    choice, parallel = options.get("choice", ToolChoice()), options.get("parallel", True)
    return wire, constraint, constraint.start(wire.grammar(tools(specs), choice, parallel, ResponseFormat()))


def allowed(constraint: Constraint, state: CallState) -> list[int]:
    row = np.full(constraint.vocabulary.words + 2, -1, np.int32)
    state.fill(row)
    assert not row[constraint.vocabulary.words :].any(), "ids beyond the vocabulary must be cleared"
    return constraint.vocabulary.unpack(row[: constraint.vocabulary.words])


def turn(wire: Wire, content: str, *calls: tuple[str, dict[str, Any]]) -> list[int]:
    message = Message(
        role="assistant", content=content, tool_calls=tuple(ToolCall(name=n, arguments=a) for n, a in calls)
    )
    rendered = wire.render(Conversation(messages=(Message(role="user", content="-"), message), tools=tools()))
    ((_, ids),) = wire.turns(rendered)
    return list(ids)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_turn_goes_through_and_comes_back(dialect: str) -> None:
    wire, constraint, state = start(dialect)
    ids = turn(wire, "One moment.", ("get_weather", {"city": "Paris"}), ("get_weather_now", {}), ("tree", {"v": 1}))
    masks = []
    for token in ids:
        masks.append(allowed(constraint, state))
        assert token in masks[-1] and state.advance(token)
    assert state.terminated and not state.can_end
    for back in range(1, len(ids) + 1):
        state.rollback(1)
        assert allowed(constraint, state) == masks[-back]
    with pytest.raises(ConstraintError):
        state.rollback(1)
    for token in ids:
        assert state.advance(token)
    state.rollback(len(ids))
    assert allowed(constraint, state) == masks[0]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_refused_token_changes_nothing(dialect: str) -> None:
    wire, constraint, state = start(dialect)
    rng = random.Random(0)
    while not state.terminated:
        before = allowed(constraint, state)
        for token in (
            -1,
            constraint.vocabulary.size,
            constraint.vocabulary.size + 7,
            rng.randrange(constraint.vocabulary.size),
        ):
            if token not in before:
                assert not state.advance(token)
        assert allowed(constraint, state) == before
        assert state.can_end == (wire.end_id in before)
        assert state.advance(wire.end_id if state.can_end else rng.choice(before))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_added_tokens_stand_only_where_the_frame_puts_them(dialect: str) -> None:
    wire, constraint, state = start(dialect)
    added, frame = set(wire.tokenizer.added_tokens.values()), wire.frame
    ids = turn(wire, "Text.", ("get_weather", {"city": "x"}), ("free", {}))
    known = {frame.content, frame.call_open, frame.separator, frame.call_close, frame.end}
    for token in ids:
        assert added & set(allowed(constraint, state)) <= known
        assert state.advance(token)


def test_the_number_of_calls_is_kept() -> None:
    wire, constraint, state = start("octupus", parallel=False)
    for token in turn(wire, "", ("free", {}))[:-1]:
        assert state.advance(token)
    assert allowed(constraint, state) == [wire.end_id]
    wire, constraint, state = start("octupus", choice=ToolChoice(mode="required"))
    assert allowed(constraint, state) == [wire.frame.call_open]


def test_names_that_begin_alike() -> None:
    wire, constraint, state = start("octupus")
    for token in [wire.frame.call_open, *wire.tokenizer.encode("get_weather")]:
        assert state.advance(token)
    assert wire.frame.separator in allowed(constraint, state)
    assert state.advance(wire.tokenizer.encode("_")[0])
    assert wire.frame.separator not in allowed(constraint, state)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_forced_tokens_are_what_the_tokenizer_writes(dialect: str) -> None:
    schema = {"type": "object", "properties": {"city": {"const": "Paris"}}, "required": ["city"]}
    spec = [{"name": "get_weather", "parameters": schema}]
    wire, _, state = start(dialect, spec, choice=ToolChoice(mode="named", names=("get_weather",)))
    ids = turn(wire, "", ("get_weather", {"city": "Paris"}))
    assert state.forced() == ids, "nothing about this turn is left to choose"
    assert not state.terminated
    wire, _, state = start(dialect)
    ids = turn(wire, "Hi.", ("get_weather", {"city": "Paris", "days": 3}))
    count = 0
    for place, token in enumerate(ids):
        forced = state.forced()
        assert forced == ids[place : place + len(forced)]
        count += bool(forced)
        assert state.advance(token)
    assert count > 2


def test_a_name_whose_last_character_a_token_shares_with_what_follows() -> None:
    """No usual vocabulary has such a token; then the text is made before that character comes."""
    wire, _ = setting("qwen2_5")
    tokens: list[bytes | None] = [bytes([byte]) for byte in range(256)]
    assert isinstance(wire.frame.separator, str)
    tokens.append("中".encode()[1:] + wire.frame.separator.encode())
    frame = wire.frame.model_copy(update={"call_open": 300, "call_close": 301, "end": 302})
    constraint = Constraint(Vocabulary([*tokens, *[None] * 60], 302, lambda text: list(text.encode())))
    grammar = wire.grammar(tools([{"name": n, "parameters": {}} for n in ("中", "国")]), ToolChoice(mode="required"))
    constraint.start(grammar.model_copy(update={"frame": frame})).prepare()
    for ids in ([*"中".encode(), *wire.frame.separator.encode()], ["中".encode()[0], 256]):
        state = constraint.start(grammar.model_copy(update={"frame": frame}))
        for token in [300, *wire.frame.before_name.encode(), *ids, *b"{}", *wire.frame.after_arguments.encode(), 301]:
            assert token in allowed(constraint, state) and state.advance(token)
        assert state.can_end


def test_schemas_are_compiled_when_the_answer_comes_to_them() -> None:
    bad = [{"name": "good", "parameters": {"type": "object"}}, {"name": "bad", "parameters": {"$ref": "#"}}]
    wire, constraint, state = start("octupus", bad)
    grammar = wire.grammar(tools(bad), ToolChoice(), True, ResponseFormat())
    with pytest.raises(ConstraintError, match=r"\$ref"):
        constraint.start(grammar).prepare()
    for token in [wire.frame.call_open, *wire.tokenizer.encode("bad")]:
        assert state.advance(token)
    separator = wire.frame.separator
    assert isinstance(separator, int)
    with pytest.raises(ConstraintError):
        state.advance(separator)
    wire, constraint, other = start("octupus", bad)
    assert other.advance(wire.frame.call_open), "another request goes on"


@pytest.mark.parametrize("dialect", ["octupus", "qwen2_5"])
def test_a_likely_answer_of_a_prepared_request_needs_no_new_mask(dialect: str) -> None:
    wire, constraint = setting(dialect)
    fields = {"a": {"type": "string"}, "b": {"type": "integer"}, "c": {"enum": ["red", "blue"]}}
    schema = {"type": "object", "properties": fields, "required": ["a", "b", "c"]}
    function = [{"name": "f", "parameters": {**schema, "title": dialect}}]
    grammar = wire.grammar(tools(function), ToolChoice(mode="required"), True, ResponseFormat())
    constraint.start(grammar).prepare()
    prepared = constraint.counts()
    call = ToolCall(name="f", arguments={"a": "x", "b": 10, "c": "blue"})
    answer = Message(role="assistant", tool_calls=(call,))
    ((_, ids),) = wire.turns(
        wire.render(Conversation(messages=(Message(role="user", content="-"), answer), tools=tools(function)))
    )
    state, row = constraint.start(grammar), np.zeros(constraint.vocabulary.words, np.int32)
    for token in ids:
        state.fill(row)
        assert state.advance(token)
    after = constraint.counts()
    assert after["automata"] <= prepared["automata"] + 1, "the text between calls"
    assert after["worked_out"] - prepared["worked_out"] <= 16, "only those of the name, and of what stands around it"


def test_an_empty_mask_is_an_error_and_never_an_end() -> None:
    wire, _ = setting("octupus")
    added = set(wire.tokenizer.added_tokens.values())
    letters = [b"a" if i == 0 else None for i in range(wire.tokenizer.size)]
    constraint = Constraint(Vocabulary(letters, wire.end_id))  # no token can write a brace
    state = constraint.start(wire.grammar(tools(), ToolChoice(mode="required"), True, ResponseFormat()))
    assert state.advance(wire.frame.call_open)
    with pytest.raises(ConstraintError, match="nothing may follow"):
        state.fill(np.zeros(constraint.vocabulary.words, np.int32))
    assert added
