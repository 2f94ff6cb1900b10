"""Which authority enforces what, and what is refused: with pointer, keyword, and in bounded time."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import jsonschema
import pytest

from octupus.config import ConstraintSection
from octupus.constrain import Constraint, compile_schema, validate
from octupus.constrain import constraint as module
from octupus.constrain.schema import MAX_VALUES
from octupus.errors import ConstraintError
from tests.unit.constrain.setting import accepts, accepts_value, byte_constraint, byte_vocabulary
from tests.unit.constrain.walk import closing

SECOND: list[tuple[Any, list[str], list[str]]] = [
    ({"type": "string", "pattern": "^[a-z]+$"}, ['"abc"'], ['"Abc"', '""']),
    ({"type": "integer", "minimum": 3, "maximum": 12}, ["3", "12"], ["2", "13", "3.5"]),
    ({"type": "string", "format": "date"}, ['"2024-02-29"'], ['"tomorrow"']),
    ({"type": "object", "patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False},
     ['{"x1": 1}'], ['{"y": 1}', '{"x": "a"}']),
    ({"enum": [f"v{i}" for i in range(2000)]}, ['"v1999"'], ['"v2000"']),
    ({"allOf": [{"type": "number", "minimum": 0}, {"maximum": 1}]}, ["0.5"], ["1.5"]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "good", "bad"), SECOND, ids=range(len(SECOND)))
def test_what_the_first_cannot_the_second_enforces(schema: Any, good: list[str], bad: list[str]) -> None:
    assert compile_schema(schema).authority == "llguidance"
    for text in good:
        assert accepts(schema, text), text
    for text in bad:
        assert not accepts(schema, text), text
    with pytest.raises(ConstraintError):
        compile_schema(schema, ConstraintSection(backend="lm-format-enforcer"))
    loose = compile_schema(schema, ConstraintSection(backend="lm-format-enforcer", on_unenforced="validate"))
    assert loose.authority == "lm-format-enforcer" and loose.unenforced


@pytest.mark.parametrize(
    "schema",
    [
        {
            "type": "object",
            "properties": {"a": {"type": "string", "default": "x", "description": "d", "format": "float"}},
        },
        {
            "type": "object",
            "properties": {"a": {"type": "integer", "format": "int32", "optional": True}},
            "response": {},
        },
        {"type": ["object", "null"], "nullable": True, "x-order": 1},
    ],
)
def test_annotations_neither_route_nor_refuse(schema: Any) -> None:
    plan = compile_schema(schema)
    assert plan.authority == "lm-format-enforcer" and not plan.unenforced


@pytest.mark.parametrize(
    ("schema", "pointer", "keyword"),
    [
        (
            {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}},
            "/properties/a",
            "uniqueItems",
        ),
        ({"type": "array", "contains": {"type": "integer"}}, "", "contains"),
        ({"properties": {"a/b": {"$ref": "#/nowhere"}}}, "/properties/a~1b/$ref", "$ref"),
        ({"type": "object", "properties": {"a": {"type": "any"}}}, "/properties/a/type", "type"),
        ({"type": "string", "pattern": "^(?=x)y"}, "/pattern", "pattern"),
        ({"type": "object", "required": True}, "/required", "required"),
        ({"$ref": "#"}, "", "$ref"),
        ({"$ref": "https://example.com/x.json"}, "", ""),
    ],
)
def test_refusals_name_pointer_and_keyword(schema: Any, pointer: str, keyword: str) -> None:
    with pytest.raises(ConstraintError) as caught:
        compile_schema(schema)
    assert (caught.value.pointer, caught.value.keyword) == (pointer, keyword) or keyword == ""


def test_what_cannot_be_enforced_may_be_validated_instead() -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    plan = compile_schema(schema, ConstraintSection(on_unenforced="validate"))
    assert plan.unenforced == (("", "uniqueItems"),) and ("/items", "type") in plan.enforced
    assert plan.validator.problems([1, 1]) and not plan.validator.problems([1, 2])


def test_nothing_satisfies_it() -> None:
    for schema in (
        False,
        {"type": "string", "enum": [1]},
        {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}},
    ):
        with pytest.raises(ConstraintError, match="no value satisfies"):
            compile_schema(schema)


def test_arguments_are_arranged_as_the_second_authority_writes_them() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0}, "b": {"$ref": "#/$defs/o"}},
        "$defs": {"o": {"type": "object", "properties": {"x": {}, "y": {}}}},
    }
    value = {"b": [{"y": 1}], "c": 3, "a": 1} | {"b": {"y": 1, "x": 2}}
    plan = compile_schema(schema)
    assert json.dumps(plan.arrange(value)) == '{"a": 1, "b": {"x": 2, "y": 1}, "c": 3}'
    assert accepts_value(schema, value) and not accepts(schema, json.dumps(value))
    first = compile_schema({"type": "object"})
    assert first.arrange(value) is value


def test_walks_under_the_second_authority_are_legal() -> None:
    schema = {
        "type": "object",
        "properties": {
            "id": {"type": "string", "pattern": "^[A-Z]{2}[0-9]+$"},
            "n": {"type": "integer", "minimum": -5, "maximum": 300},
            "x": {"type": "number", "exclusiveMinimum": 0},
            "when": {"type": "string", "format": "date"},
            "l": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 3},
        },
        "required": ["id", "n", "when"],
        "additionalProperties": False,
    }
    constraint = byte_constraint()
    ended = 0
    for seed in range(20):
        rng, text = random.Random(seed), b""
        position: Any = constraint.json(schema, "", "", arguments=True)
        for _ in range(200):
            choices = constraint.vocabulary.unpack(position.mask())
            if position.ended and (not choices or rng.random() < 0.5):
                break
            token = rng.choice(closing(constraint.vocabulary, choices) if rng.random() < 0.3 else choices)
            assert position.advance(constraint.vocabulary.size - 1) is None
            position, text = position.advance(token), text + (constraint.vocabulary.tokens[token] or b"")
        if position.ended:
            ended += 1
            jsonschema.validate(json.loads(text), schema, cls=jsonschema.Draft202012Validator)
    assert ended > 10


def nested(depth: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


HOSTILE = {
    "depth": nested(10_000),
    "enum": {"enum": list(range(1_000_000))},
    "backtracking": {"type": "string", "pattern": "^(a+)+$"},
    "repetition": {"type": "string", "pattern": "^(a{1,1000}){1,1000}$"},
    "loop": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
    "description": {"type": "object", "description": "x" * 10_000_000},
    "alternatives": {"allOf": [{"anyOf": [{"required": [f"a{i}"]}, {"required": [f"b{i}"]}]} for i in range(30)]},
    "oneOf": {"oneOf": [{"required": [f"a{i}"]} for i in range(60)], "type": "object"},
    "properties": {"properties": {f"p{i}": {"type": "string"} for i in range(20_000)}},
    "lengths": {"type": "array", "minItems": 10**9, "items": {"type": "string", "minLength": 10**9}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas_are_bounded(name: str) -> None:
    constraint = Constraint(byte_vocabulary())
    began = time.thread_time()
    try:
        position: Any = constraint.json(HOSTILE[name], "", "", arguments=False)
        for _ in range(20):
            choices = constraint.vocabulary.unpack(position.mask())
            if not choices:
                break
            position = position.advance(choices[len(choices) // 2])
    except ConstraintError as error:
        assert str(error)
    assert time.thread_time() - began < 10, "counted in steps: this only catches what is not bounded at all"
    assert accepts({"type": "string"}, '"still here"', constraint)


def test_caches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PLANS", 10)
    monkeypatch.setattr(module, "MAX_BYTES", 200_000)
    constraint = Constraint(byte_vocabulary())
    for number in range(100):
        position: Any = constraint.json({"type": "string", "maxLength": 20 + number}, "", "", arguments=False)
        for _ in range(4):
            position = position.advance(constraint.vocabulary.unpack(position.mask())[-1])
    counts = constraint.counts()
    assert counts["plans"] <= 10 and counts["bytes"] < 400_000 and counts["automata"] < 100
    assert position.mask() is not None, "what a request holds goes on working"


def test_no_pattern_reaches_a_backtracking_engine() -> None:
    began = time.thread_time()
    assert validate({"type": "string", "pattern": "^(a+)+$"}, "a" * 50_000 + "b")
    assert time.thread_time() - began < 5
    assert MAX_VALUES < 1_000_000


@pytest.mark.parametrize("value", [{"a": 1}, {"a": 1.5}, {"a": "x"}, {}, [], {"a": 1, "b": []}])
def test_validation_agrees_with_another_validator(value: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": ["integer", "string"]}},
        "required": ["a"],
        "maxProperties": 1,
    }
    assert bool(validate(schema, value)) != jsonschema.Draft202012Validator(schema).is_valid(value)
