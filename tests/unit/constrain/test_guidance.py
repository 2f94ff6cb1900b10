"""What llguidance alone would enforce otherwise than the schema says it."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from random import Random
from typing import Any

import jsonschema
import pytest

from octupus.errors import ConstraintError
from tests.unit.constrain.setting import accepts, byte_constraint


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
