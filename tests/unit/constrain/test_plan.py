"""Which authority enforces what, and what is refused: with pointer, keyword, and in bounded time."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from octupus.config import ConstraintSection
from octupus.constrain import Constraint, Vocabulary, compile_schema, validate
from octupus.constrain import constraint as module
from octupus.constrain.figures import NAMES, SIZE, Figures
from octupus.constrain.kept import RECOUNT, Kept
from octupus.constrain.schema import MAX_VALUES
from octupus.errors import ConstraintError
from tests.support.tiny import tiny_dialect
from tests.unit.constrain.setting import accepts, accepts_value, byte_constraint, byte_vocabulary
from tests.unit.constrain.walk import closing, tools

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
        (
            {
                "properties": {"x": {"$ref": "#/$defs/a"}},
                "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
            },
            "/$defs/a",
            "$ref",
        ),
        ({"$ref": "https://example.com/x.json"}, "", ""),
    ],
)
def test_refusals_name_pointer_and_keyword(schema: Any, pointer: str, keyword: str) -> None:
    with pytest.raises(ConstraintError) as caught:
        compile_schema(schema)
    assert (caught.value.pointer, caught.value.keyword) == (pointer, keyword) or keyword == ""


DATED = {"type": "object", "properties": {"day": {"type": "string", "format": "date"}}}


@pytest.mark.parametrize(("formats", "content", "arguments"), [("content", 1, 0), ("all", 1, 1), ("none", 0, 0)])
def test_formats_are_asserted_where_the_options_say(formats: Any, content: int, arguments: int) -> None:
    constraint = Constraint(byte_vocabulary(), ConstraintSection(formats=formats))
    for role, asserted in ((False, content), (True, arguments)):
        assert accepts(DATED, '{"day": "2020-12-25"}', constraint, arguments=role)
        assert accepts(DATED, '{"day": "Dec 25, 2020"}', constraint, arguments=role) != bool(asserted)


def test_a_format_that_says_nothing_denies_nothing() -> None:
    schema = {"allOf": [{"type": "string"}, {"not": {"format": "float", "maxLength": 2}}]}
    assert accepts(schema, '"abc"') and not accepts(schema, '"ab"')


def test_undeclared_arguments_are_closed_out_or_let_in() -> None:
    inner = {"type": "object", "properties": {"b": {"type": "integer"}}}
    schema = {"type": "object", "properties": {"a": inner}}
    free = Constraint(byte_vocabulary(), ConstraintSection(undeclared="open"))
    for value in ({"z": 1}, {"a": {"b": 1, "z": 2}}):
        assert not accepts_value(schema, value, arguments=True)
        assert accepts_value(schema, value, arguments=True, constraint=free)
        assert not accepts_value({**schema, "additionalProperties": False}, {"z": 1}, arguments=True, constraint=free)
        assert not compile_schema(schema, arguments=True).validator.problems(value), "no breach of the schema"
    assert not accepts_value(schema, {"a": {"b": "x"}}, arguments=True, constraint=free)
    assert accepts_value({"type": "object", "properties": {}}, {"z": 1}, arguments=True, constraint=free)


ENUMS: list[tuple[dict[str, Any], list[Any], list[Any]]] = [
    ({"type": "array", "enum": ["a", "b"]}, [[], ["a"], ["b", "a"]], [["c"], "a"]),
    ({"type": "array", "items": {"type": "string"}, "enum": ["a", 1]}, [["a"]], [[1], ["b"]]),
    ({"type": "array", "items": {"enum": ["a", "c"]}, "enum": ["a", "b"], "maxItems": 1}, [["a"]], [["b"], ["c"]]),
    ({"type": "array", "enum": [["a"], ["b", "a"]]}, [["a"], ["b", "a"]], [[], ["b"]]),
    ({"type": "array", "enum": [["a"], "b"]}, [["a"]], [["b"], []]),
    ({"enum": ["a", "b"]}, ["a"], [["a"]]),
    ({"properties": {"enum": {"type": "array", "enum": ["a"]}}}, [{"enum": ["a"]}], [{"enum": ["b"]}]),
    ({"default": {"type": "array", "enum": ["a"]}, "const": {"type": "array", "enum": ["a"]}},
     [{"type": "array", "enum": ["a"]}], [{"type": "array", "items": {"enum": ["a"]}}]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "good", "bad"), ENUMS, ids=range(len(ENUMS)))
def test_an_enum_of_scalars_on_an_array_is_one_of_its_items(
    schema: dict[str, Any], good: list[Any], bad: list[Any]
) -> None:
    validator = compile_schema(schema).validator
    for values, well in ((good, True), (bad, False)):
        for value in values:
            assert accepts_value(schema, value) == well, value
            assert bool(validator.problems(value)) != well, "masks and validator read it the same way"


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


def chain(count: int, link: Any) -> Any:
    """Definitions of which each leads to the next."""
    links = {f"d{i}": link({"$ref": f"#/$defs/d{i + 1}"}) for i in range(count)}
    return {"$defs": {**links, f"d{count}": {"type": "string"}}}


def either(inner: Any) -> Any:
    """Alternatives that exclude each other only by what lies below them."""
    return {"oneOf": [{"required": [name], "properties": {"a": inner}} for name in "ab"]}


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
    "references": {**chain(3000, lambda inner: inner), "not": {"$ref": "#/$defs/d0"}},
    "chain": {
        **chain(3000, lambda inner: {"type": "object", "required": ["a"], "properties": {"a": inner}}),
        "$ref": "#/$defs/d0",
    },
    "questions": {**chain(3000, either), "$ref": "#/$defs/d0"},
    "readings": {
        **chain(40, lambda inner: {"anyOf": [{"type": "array", "items": inner, "maxItems": n} for n in (1, 2)]}),
        "type": "array",
        "items": {"$ref": "#/$defs/d0"},
    },
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


def test_definitions_may_lead_to_each_other_through_values() -> None:
    a = {"oneOf": [{"type": "null"}, {"type": "object", "properties": {"b": {"$ref": "#/$defs/b"}}}]}
    b = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"$ref": "#/$defs/a"}}]}
    schema = {"$defs": {"a": a, "b": b}, "$ref": "#/$defs/a"}
    assert accepts(schema, '{"b": [null, {"b": "x"}]}') and not accepts(schema, '{"b": [1]}')


def test_so_many_readings_end_the_request_and_no_other() -> None:
    constraint = Constraint(byte_vocabulary())
    with pytest.raises(ConstraintError, match="ways to read"):
        accepts(HOSTILE["readings"], "[" * 30, constraint)
    assert accepts(HOSTILE["readings"], "[]", constraint)


def test_caches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 10)
    constraint = Constraint(byte_vocabulary(), ConstraintSection(cache_mb=1))
    for number in range(100):
        schema = {"type": "string", "maxLength": 20 + number}
        position: Any = constraint.json(schema, "", "", arguments=False)
        for _ in range(4):
            position = position.advance(constraint.vocabulary.unpack(position.mask())[-1])
    counts = constraint.counts()
    assert counts["plans"] <= 10 and counts["automata"] <= 10 and 0 < counts["cached_bytes"] < 1 << 20
    assert position.mask() is not None, "what a request holds goes on working"


def test_what_is_kept_is_bounded_in_bytes_as_it_grows() -> None:
    kept: Kept[list[int]] = Kept(1000, 5_000, len)
    lists = [[0] * 100 for _ in range(200)]
    for number, value in enumerate(lists):
        kept.put(number, value)
        value += [0] * 100  # used
        assert kept.get(number) is value
        assert sum(len(v) for n, v in enumerate(lists) if kept.get(n)) <= 5_000 + 100 * RECOUNT
    assert kept.get(0) is None and 0 < kept.bytes <= 5_000 and len(kept) <= 50


def test_figures_tell_hits_refusals_and_times(tmp_path: Path) -> None:
    path = tmp_path / "figures"
    path.write_bytes(bytes(SIZE))
    wire = tiny_dialect("octupus")
    constraint = Constraint(Vocabulary.from_tokenizer(wire.tokenizer), None, Figures(path))
    for _ in range(2):
        constraint.plan({"type": "integer"})
        with pytest.raises(ConstraintError):
            constraint.plan(False)
    state = constraint.start(wire.grammar(tools()))
    state.fill(np.zeros(constraint.vocabulary.words, np.int32))
    elsewhere = Figures(path).read()
    assert elsewhere == Figures(path).read() and elsewhere.keys() == NAMES.keys()
    assert (elsewhere["hits"], elsewhere["compiles"], elsewhere["refusals"], elsewhere["masks"]) == (2, 2, 2, 1)
    assert 0 < elsewhere["compile_seconds"] < 60 and 0 < elsewhere["mask_seconds"] < 60


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
