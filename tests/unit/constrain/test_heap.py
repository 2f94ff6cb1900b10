"""What the caches drop goes by itself; what they keep costs no garbage collection any time."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from octupus.config import ConstraintSection
from octupus.constrain import Constraint, Heap
from octupus.constrain import constraint as module
from octupus.constrain import heap as heap_module
from octupus.constrain.normal import Normal
from octupus.errors import ConstraintError
from octupus.wire.grammar import ToolChoice
from tests.unit.constrain.random_schemas import Schemas
from tests.unit.constrain.setting import byte_vocabulary, setting
from tests.unit.constrain.walk import walk

TREE = {
    "type": "object",
    "properties": {"left": {"$ref": "#"}, "rest": {"type": "array"}, "any": {}},
    "additionalProperties": {"$ref": "#"},
}


class Circle:
    itself: Circle


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No collection comes between, and nothing that was there before is counted."""
    gc.collect()
    gc.disable()
    gc.freeze()
    yield
    gc.unfreeze()
    gc.enable()


def generate(constraint: Constraint, schema: Any, tokens: int = 12) -> None:
    position: Any = constraint.json(schema, "", "", arguments=True)
    for _ in range(tokens):
        allowed = constraint.vocabulary.unpack(position.mask())
        position = position.advance(allowed[-1]) if allowed else position


def test_what_is_dropped_leaves_nothing_to_a_collector(uncollected: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 3)
    constraint = Constraint(byte_vocabulary())
    made, refused, rng = 0, 0, Random(4)
    for number in range(60):
        schema = Schemas(rng, second=False)() | {"title": str(number)} if number % 3 else TREE | {"title": str(number)}
        try:
            generate(constraint, schema)
            made += 1
        except ConstraintError:
            refused += 1
    assert made > 40 and len(constraint._automata) <= 3
    kept = sum(isinstance(one, Normal) for one in gc.get_objects())
    assert kept <= 3 + 3, kept
    found = gc.collect()
    assert found == 0, f"{found} objects were in circles"


REFUSED = [
    {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}, "b": {"$ref": "#"}}},
    {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"type": "array", "contains": {"const": 1}}}},
    {"properties": {"q": {"$ref": "#"}}, "oneOf": [{"properties": {f"z{i}": {"const": i}}} for i in range(40)]},
    {"allOf": [{"$ref": "#"}]},
    {"enum": [{"a": 1}, [2]], "not": {"properties": {"a": {"const": 1}, "b": {"$ref": "#"}}}, "type": "string"},
]


@pytest.mark.parametrize("schema", REFUSED, ids=range(len(REFUSED)))
def test_a_refusal_leaves_nothing_either(uncollected: None, schema: Any) -> None:
    with pytest.raises(ConstraintError) as refusal:
        Constraint(byte_vocabulary()).plan(schema)
    del refusal
    assert not any(isinstance(one, Normal) for one in gc.get_objects())


def test_what_is_dropped_in_the_middle_of_a_text_leaves_nothing_when_the_text_has_ended(uncollected: None) -> None:
    text = b'{"left": {"any": [1, "x"]}, "any": {"k": null, "l": [[]]}, "more": {"rest": [[], {"a": {}}]}}'
    for at in (1, 9, 20, 40, 70):
        constraint = Constraint(byte_vocabulary())
        first: Any = constraint.json(TREE, "", "", arguments=True)
        masks = []
        for round in range(2):
            position = first
            for place, byte in enumerate(text):
                if round == 0:
                    masks.append(position.mask().tobytes())
                elif place == at:
                    position.automaton.dismantle()
                assert position.mask().tobytes() == masks[place]
                position = position.advance(byte)
                assert position is not None, text[:place]
                assert position.forced() is not None
            assert position.ended
            if round == 0:
                del constraint
        gone = weakref.ref(position.automaton)
        del first, position
        assert gone() is None
        assert gc.collect() == 0


def test_circles_there_are_while_it_is_kept_so_this_test_can_fail(uncollected: None) -> None:
    constraint = Constraint(byte_vocabulary())
    generate(constraint, TREE)
    del constraint
    assert gc.collect() > 500


def test_a_process_that_serves_hides_what_it_keeps_and_looks_through_it_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heap_module, "LOOK_THROUGH", 8)
    gc.unfreeze()
    try:
        constraint = Constraint(byte_vocabulary(), ConstraintSection(), heap=Heap())
        generate(constraint, TREE)
        seen = sum(isinstance(one, Normal) for one in gc.get_objects())
        assert seen == 0 and gc.get_freeze_count() > 1_000, "no collection walks through it"
        circle = Circle()
        circle.itself = circle
        gone = weakref.ref(circle)
        generate(constraint, TREE | {"title": "1"})
        del circle
        assert gone() is not None, "it was alive when all that lived was hidden"
        for number in range(2, 6):
            generate(constraint, TREE | {"title": str(number)})
        assert gone() is None, "found when everything was looked through"
    finally:
        gc.unfreeze()


def test_by_itself_the_collector_is_left_alone() -> None:
    gc.unfreeze()
    generate(Constraint(byte_vocabulary()), TREE)
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize("dialect", ["octupus", "qwen2_5"])
def test_a_request_leaves_nothing_to_a_collector_either(dialect: str) -> None:
    wire, constraint = setting(dialect)
    answers = []
    for attempt in range(2):  # the first one fills the caches
        gc.collect()
        gc.disable()
        answers = [
            walk(wire, constraint, Random(seed), choice=ToolChoice(mode="required"), hurry=0.6) for seed in range(4)
        ]
        found = gc.collect()
        gc.enable()
        assert attempt == 0 or found == 0, f"{found} objects were in circles"
    assert any(answers)
