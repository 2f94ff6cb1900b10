"""What llguidance alone would enforce otherwise than the schema says it."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from random import Random
from typing import Any

import jsonschema
import pytest

from octupus.errors import ConstraintError
from octupus.wire.messages import canonical_json
from tests.unit.constrain.setting import accepts, accepts_value, byte_constraint


def within(schema: dict[str, Any], text: str) -> bool:
    value = Fraction(text)
    bounds = {keyword: Fraction(str(bound)) for keyword, bound in schema.items() if keyword != "type"}
    return (
        value >= bounds.get("minimum", value)
        and value <= bounds.get("maximum", value)
        and value > bounds.get("exclusiveMinimum", value - 1)
        and value < bounds.get("exclusiveMaximum", value + 1)
    )


BOUNDS: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"exclusiveMinimum": 0, "maximum": 0.5}, ["0.1", "0.5", "0.0001"], ["0", "0.0", "-0", "-0.0", "0.51"]),
    ({"exclusiveMinimum": 0.0, "exclusiveMaximum": 0.1}, ["0.05"], ["0", "0.0", "0.1", "0.10"]),
    ({"exclusiveMinimum": 1, "maximum": 1.5}, ["1.001", "1.5"], ["1", "1.0", "1.00", "0.9"]),
    ({"minimum": -0.5, "exclusiveMaximum": 0}, ["-0.1", "-0.5"], ["-0", "-0.0", "0", "0.0"]),
    ({"exclusiveMinimum": -1.5, "exclusiveMaximum": -1}, ["-1.2"], ["-1", "-1.0", "-1.5"]),
    ({"minimum": 0.5, "exclusiveMaximum": 1}, ["0.5", "0.99", "0.9999"], ["1", "1.0", "0.4"]),
    ({"minimum": 0, "maximum": 0.5}, ["0", "0.5"], ["-0.1", "0.6"]),
    ({"minimum": -0.5, "maximum": 0}, ["-0", "0", "-0.5"], ["0.1"]),
]


@pytest.mark.parametrize(("bounds", "good", "bad"), BOUNDS, ids=range(len(BOUNDS)))
def test_an_exclusive_whole_bound_stays_out(bounds: dict[str, Any], good: list[str], bad: list[str]) -> None:
    schemas = ({"type": "number", **bounds}, {"type": "number", "allOf": [{k: v} for k, v in bounds.items()]})
    for schema in schemas:
        assert byte_constraint().plan(schema).authority == "llguidance"
        assert [text for text in good if not accepts(schema, text)] == []
        assert [text for text in bad if accepts(schema, text)] == []


def test_no_number_out_of_bounds_is_accepted() -> None:
    rng, tried = Random(3), 0
    for _ in range(60):
        low = rng.choice([0, 1, -1, 0.5, -0.5, rng.randrange(-300, 300) / 100])
        high = round(low + rng.choice([0.1, 0.5, 0.05, 1, 2.5]), 2)
        lower, upper = rng.choice(["minimum", "exclusiveMinimum"]), rng.choice(["maximum", "exclusiveMaximum"])
        schema = {"type": "number", lower: low, upper: high}
        for edge in (low, high, 0, int(low), int(high)):
            for text in (str(edge), f"{edge:.3f}", f"{edge:.1f}", f"-{edge}" if edge == 0 else str(edge)):
                if not within(schema, text):
                    tried += 1
                    assert not accepts(schema, text), (schema, text)
                    assert not jsonschema.Draft202012Validator(schema).is_valid(float(text))
    assert tried > 200


def test_bounds_beyond_all_doubles_are_no_obstacle() -> None:
    for bounds in ({"exclusiveMinimum": 10**400, "maximum": 0.5}, {"minimum": 10**400}):
        with contextlib.suppress(ConstraintError):
            assert not accepts({"type": "number", **bounds}, "0.25")


LIMITS: list[tuple[dict[str, Any], str]] = [
    ({"type": "integer", "minimum": -(2**63), "maximum": -(2**63)}, "maximum"),
    ({"type": "integer", "minimum": -1e300, "maximum": -1e200}, "maximum"),
    ({"type": "integer", "minimum": 2**53 + 1}, "minimum"),
    ({"enum": [-(2**63), *(f"v{i}" for i in range(1100))]}, "enum"),
    ({"enum": [2**63, *(f"v{i}" for i in range(1100))]}, "enum"),
    ({"enum": [[1e-7, 1e300], *(f"v{i}" for i in range(1100))]}, "enum"),
]


@pytest.mark.parametrize(("schema", "keyword"), LIMITS, ids=range(len(LIMITS)))
def test_a_number_that_it_fails_at_is_refused(schema: dict[str, Any], keyword: str) -> None:
    with pytest.raises(ConstraintError) as refusal:
        byte_constraint().plan(schema)
    assert refusal.value.keyword == keyword


def test_a_bound_that_is_no_double_lets_nothing_beyond_it_in() -> None:
    schema = {"type": "integer", "minimum": 0, "maximum": 2**53 + 3}
    assert accepts(schema, str(2**53 + 2)) and not accepts(schema, str(2**53 + 4))
    assert accepts({"type": "integer", "minimum": 0, "maximum": 2**63 - 1}, "12")
    assert not accepts({"type": "integer", "minimum": 0, "maximum": 2**63 - 1}, str(2**63))


def test_a_literal_with_an_escaped_key_beside_free_keys_is_refused() -> None:
    for literal in ({'a"b': 1}, [{"c": {"\n": 1}}]):
        schema = {"anyOf": [{"const": literal}, {"type": "string", "pattern": "b$"}, {"type": "object"}]}
        with pytest.raises(ConstraintError) as refusal:
            byte_constraint().plan(schema)
        assert refusal.value.keyword == "enum" and "escapes" in str(refusal.value)
    closed = {"anyOf": [{"const": {'a"b': 1}}, {"type": "string", "pattern": "b$"}]}
    assert accepts_value(closed, {'a"b': 1})


@pytest.mark.parametrize("backend", ["auto", "llguidance"])
def test_a_member_of_an_enum_is_written_as_the_authority_writes_it(backend: str) -> None:
    constraint = byte_constraint(backend=backend)
    member = {"b": [1, 2.0, {"d": None, "c": -0.0}], "a": 0.5}
    other = {"a": 0.5, "b": [1.0, 2, {"c": 0, "d": None}]}
    schemas: list[tuple[Any, Any]] = [
        ({"const": member}, other),
        ({"enum": [{"a": 1}, member]}, other),
        ({"type": "array", "items": {"anyOf": [{"type": "integer"}, {"enum": [member]}]}}, [1, other]),
        ({"type": "object", "additionalProperties": {"const": member}}, {"k": other}),
        ({"type": "object", "properties": {"k": {"enum": [[member]]}}}, {"k": [other]}),
    ]
    for schema, value in schemas:
        plan = constraint.plan(schema)
        arranged = plan.arrange(value)
        assert arranged == value and accepts_value(schema, value, constraint=constraint), schema
        assert plan.arrange(arranged) == arranged and plan.problems(arranged) == []
        assert plan.problems(value) != [] and '"b"' in canonical_json(arranged).partition('"a"')[0]
    assert not constraint.plan({"const": member}).admits({**other, "a": 1})
