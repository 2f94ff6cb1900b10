"""What every answer of a request begins with: legal, the tokenizer's own, and never past the first choice."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octupus.constrain import Constraint, Vocabulary, opening
from octupus.errors import ConstraintError
from octupus.wire import Conversation, Message, ResponseFormat, ToolCall, ToolChoice, Wire
from octupus.wire.wire import make_dialect
from tests.support.qwen import qwen_instruct, qwen_wire
from tests.unit.constrain.setting import setting
from tests.unit.constrain.walk import judge, tools

REQUIRED = ToolChoice(mode="required")
DIALECTS = ["octupus", "octupus-v1", "qwen2_5", "qwen3"]
NAMES = ["get_weather", "get_weather_now", "get", "查询天气", "list_all"]


def specs(names: list[str]) -> list[dict[str, object]]:
    return [{"name": name, "parameters": {"type": "object"}} for name in names]


def begun(wire: Wire, constraint: Constraint, names: list[str], choice: ToolChoice = REQUIRED) -> list[int]:
    """The opening, which the constraint must take."""
    grammar = wire.grammar(tools(specs(names)), choice, True, ResponseFormat())
    ids, state = opening(grammar, constraint.vocabulary), constraint.start(grammar)
    assert all(state.advance(token) for token in ids)
    return ids


def called(wire: Wire, name: str) -> list[int]:
    """A whole turn that calls ``name``, as it is rendered."""
    message = Message(role="assistant", tool_calls=(ToolCall(name=name, arguments={"a": 1}),))
    offered = tools(specs([name]))
    rendered = wire.render(Conversation(messages=(Message(role="user", content="-"), message), tools=offered))
    ((_, ids),) = wire.turns(rendered)
    return list(ids)


def real(dialect: str) -> tuple[Wire, Constraint]:
    tokenizer = qwen_instruct("qwen2_5")
    wire = qwen_wire() if dialect == "octupus" else Wire(make_dialect("qwen", tokenizer), tokenizer)
    return wire, Constraint(Vocabulary.from_tokenizer(wire.tokenizer))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_it_begins_every_call_as_that_is_rendered(dialect: str) -> None:
    wire, constraint = setting(dialect)
    for names in (NAMES, NAMES[:2], NAMES[1:2], NAMES[3:]):
        ids = begun(wire, constraint, names)
        assert ids[0] == wire.frame.call_open
        assert all(called(wire, name)[: len(ids)] == ids for name in names)


@pytest.mark.parametrize("dialect", ["octupus", "qwen"])
def test_on_the_real_vocabulary_it_goes_as_far_as_it_can(dialect: str) -> None:
    wire, constraint = real(dialect)
    text = wire.tokenizer.encode
    several, one = begun(wire, constraint, NAMES), begun(wire, constraint, NAMES[:1])
    if dialect == "qwen":
        assert several[1:] == text('\n{"name": "')
        assert one[1:] == text('\n{"name": "get_weather", "arguments":'), "what opens the arguments may hold more"
        assert begun(wire, constraint, ["$a", "get"])[1:] == text('\n{"name":'), "one token holds quote and dollar"
        assert begun(wire, constraint, ["get_a", "get_b"])[1:] == text('\n{"name": "get')
        assert begun(wire, constraint, ["a" * 5000, "b" * 5000]) == [wire.frame.call_open], "too much to look through"
    else:
        assert several == [wire.frame.call_open]
        assert one == [wire.frame.call_open, *text("get_weather"), wire.frame.separator]


@pytest.mark.parametrize("dialect", ["octupus", "qwen"])
def test_names_that_the_tokenizer_splits_otherwise_than_what_they_share(dialect: str) -> None:
    """BPE does not take the longest token: ``detail`` is one, ``detailed`` is ``d`` and ``etailed``."""
    wire, constraint = real(dialect)
    for names in (
        ["calculate_molecular_weight", "calculate_mortgage_payment"],
        ["detail_project", "detailed_weather_forecast"],
        ["cookbook_search_recipe", "cooking_conversion_convert"],
        ["send_sms", "send_smsgroup"],
        ["ls", "lsof"],
    ):
        ids = begun(wire, constraint, names)
        assert all(called(wire, name)[: len(ids)] == ids for name in names), names


def test_only_what_must_come_is_in_it() -> None:
    wire, constraint = setting("octupus")
    text, auto = ToolChoice(mode="none"), ToolChoice()
    assert begun(wire, constraint, NAMES, text) == [wire.frame.content]
    assert begun(wire, constraint, NAMES, auto) == []
    named = ToolChoice(mode="named", names=("get",))
    assert (
        begun(wire, constraint, NAMES, named) == [*called(wire, "get")[:-1]][: -len(wire.tokenizer.encode('{"a": 1}'))]
    )
    wire, constraint = setting("qwen2_5")
    assert begun(wire, constraint, NAMES, text) == begun(wire, constraint, NAMES, auto) == []


@given(st.lists(st.text("ab_get查$", min_size=1, max_size=12), min_size=1, max_size=6, unique=True), st.randoms())
@settings(max_examples=60, deadline=None)
def test_whatever_the_names_each_can_still_be_called(names: list[str], rng: random.Random) -> None:
    for dialect in ("octupus", "qwen2_5"):
        wire, constraint = setting(dialect)
        ids = begun(wire, constraint, names)
        name = rng.choice(names)
        grammar = wire.grammar(tools(specs(names)), REQUIRED, False, ResponseFormat())
        state = constraint.start(grammar)
        known = constraint.vocabulary.tokens
        assert all(state.advance(token) for token in ids)
        whole = called(wire, name)
        data = b"".join(known[i] or b"" for i in ids)
        rest = b"".join(known[i] or b"" for i in whole)[len(data) :]
        if wire.frame.separator in ids:
            assert whole[: len(ids)] == ids
        else:  # the same text in single bytes, up to the token that ends the name or the call
            last = wire.frame.separator if dialect == "octupus" else None
            until = len(name.encode()) - len(data) if last is not None else len(rest)
            assert all(state.advance(known.index(bytes([byte]))) for byte in rest[:until])
            assert state.advance(wire.frame.separator if last is not None else wire.frame.call_close)


def test_schemas_of_names_in_text_are_made_for_the_one_that_is_called() -> None:
    """Also by the second authority, whose masks hold only the tokenizer's own tokens where a text is forced."""
    wire, constraint = setting("qwen2_5")
    pattern = {"type": "object", "properties": {"x": {"type": "string", "pattern": "^[ab]{1,3}$"}}, "required": ["x"]}
    spec = [{"name": name, "parameters": pattern} for name in NAMES[:3]] + [
        {"name": "bad", "parameters": {"$ref": "#"}}
    ]
    grammar = wire.grammar(tools(spec), REQUIRED, False, ResponseFormat())
    ends, refused = set(), 0
    for seed in range(60):
        rng, state, ids = random.Random(seed), constraint.start(grammar), list[int]()
        try:
            while not state.terminated and len(ids) < 200:
                row = np.empty(constraint.vocabulary.words, np.int32)
                state.fill(row)
                ids.append(rng.choice(constraint.vocabulary.unpack(row)))
                assert state.advance(ids[-1])
        except ConstraintError as error:
            text = b"".join(constraint.vocabulary.tokens[i] or b"" for i in ids)
            assert b'"bad"' in text and "$ref" in str(error), "only the one that is called is made"
            refused += 1
        if state.terminated:
            ((name, _),) = judge(wire, ids, spec[:3])[1]
            ends.add(name)
    assert ends == set(NAMES[:3]) and refused > 3
