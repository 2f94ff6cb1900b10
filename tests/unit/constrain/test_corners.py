"""Schemas at the edges of the two authorities: nothing invalid gets through, nothing breaks, nothing takes long."""

from __future__ import annotations

import json
import time
from typing import Any

import jsonschema
import pytest

from octupus.constrain import compile_schema
from octupus.constrain.reading import BEGIN
from octupus.errors import ConstraintError
from tests.unit.constrain.setting import accepts, byte_constraint


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


BOUND = {"type": "integer", "minimum": 1}
PRICE = of(price={"type": "integer"}) | {"additionalProperties": {"type": "string"}}
COUNTED = {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}, "minProperties": 2}
EMPTY_NAME = {"type": "object", "properties": {"": {"type": "null"}}, "required": [""]}
PLACES = {"oneOf": [of(city={"type": "string"}), {"type": "object", "required": ["lat", "lon"]}]}
DEEP = {"enum": [{"a": [1, 1]}, {"a": [1, 2]}], "properties": {"a": {"uniqueItems": True}}}
NAMED = {"enum": [{"ab": 1}, {"b": 1}], "patternProperties": {"^a": {"type": "string"}}}

CASES: list[tuple[str, Any, list[str], list[str]]] = [
    ("an escaped key is the key", of(m=PRICE, n=BOUND), ['{"m": {"price": 1, "x": "y"}, "n": 1}'],
     [r'{"m": {"\u0070rice": "x"}, "n": 1}']),
    ("also where a pattern names it", of(m={"patternProperties": {"^a$": {"type": "integer"}}}, n=BOUND),
     ['{"m": {"a": 1}, "n": 1}'], [r'{"m": {"\u0061": "x"}, "n": 1}']),
    ("a free key stands once", of(x=COUNTED), ['{"x": {"a": 1, "b": 2}}', '{"x": {"a": 1, "aa": 2, "ab": 3}}'],
     ['{"x": {"a": 1, "a": 2}}', '{"x": {"a": 1, "ab": 1, "a": 2}}']),
    ("in each object anew", of(x={"type": "array", "items": COUNTED}), ['{"x": [{"a": 1, "b": 2}, {"b": 1, "a": 2}]}'],
     ['{"x": [{"a": 1, "b": 2}, {"b": 1, "b": 2}]}']),
    ("a name without letters", EMPTY_NAME, ['{"": null}'], ["{}"]),
    ("branches of oneOf that closed objects do not tell apart", of(x=PLACES), [], ['{"x": {"lat": 1, "lon": 2}}']),
    ("a list in an enum holds all the way down", of(x=DEEP), ['{"x": {"a": [1, 2]}}'], ['{"x": {"a": [1, 1]}}']),
    ("its names too", of(x=NAMED), ['{"x": {"b": 1}}'], ['{"x": {"ab": 1}}']),
    ("and at the root", NAMED, ['{"b": 1}'], ['{"ab": 1}']),
    ("through references", {"$defs": {"a": {"items": {"minimum": 2}}}, "enum": [[1], [2]], "$ref": "#/$defs/a"},
     ["[2]"], ["[1]"]),
    ("a step with a sign", of(y={"type": "integer", "multipleOf": 3, "minimum": 0}), ['{"y": 0}', '{"y": 6}'],
     ['{"y": -3}', '{"y": 4}']),
    ("a bound written as a float", of(x={"type": "string", "not": {"minLength": 2.0}}), ['{"x": "a"}', '{"x": ""}'],
     ['{"x": "ab"}']),
    ("properties that cannot be", of(x=of(a={"type": "string", "minLength": 5, "maxLength": 2}, b={"type": "boolean"})
     | {"minProperties": 2, "additionalProperties": False}), ["{}"], ['{"x": {"b": true}}']),
]  # fmt: skip


def holds_a_key_twice(text: str) -> bool:
    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found.append(len(pairs) != len(dict(pairs)))
        return dict(pairs)

    found: list[bool] = []
    json.loads(text, object_pairs_hook=look)
    return any(found)


@pytest.mark.parametrize(("name", "schema", "good", "bad"), CASES, ids=[case[0] for case in CASES])
def test_corner(name: str, schema: Any, good: list[str], bad: list[str]) -> None:
    judge = jsonschema.Draft202012Validator(schema)
    try:
        compile_schema(schema)
    except ConstraintError as error:
        assert not good and error.keyword, "refused, with the keyword"
        return
    for text in good:
        assert judge.is_valid(json.loads(text)) and accepts(schema, text), text
    for text in bad:
        assert holds_a_key_twice(text) or not judge.is_valid(json.loads(text))
        assert not accepts(schema, text), text


def test_nothing_is_left_where_a_prefix_allows_no_end() -> None:
    """Walk both authorities' dead ends: wherever a text may stand, something may follow, or it has ended."""
    for schema in (of(x=CASES[-1][1]["properties"]["x"]), of(n={"type": "integer", "multipleOf": 7, "minimum": 0})):
        position: Any = byte_constraint().json(schema, "", "", arguments=True)
        for _ in range(120):
            mask = position.mask()
            assert position.ended or mask.any()
            ids = [byte for byte in range(256) if mask[byte >> 5] >> (byte & 31) & 1]
            if not ids:
                break
            digits = [byte for byte in ids if 0x31 <= byte <= 0x39]
            position = position.advance(digits[0] if digits else ids[-1])


REFUSED = [
    ({"$ref": "#/xx/a", "xx": {"a": {"items": 5}}}, "$ref"),
    ({"$ref": "#/xx/a", "xx": {"a": {"items": [{}]}}}, "$ref"),
    (of(x={"const": "\ud800"}), ""),
    (of(x={"enum": ["a", "\ud800"]}), ""),
    (of(x={"const": float("nan")}), ""),
    (of(x={"enum": [float("inf")]}), ""),
    (of(y={"type": "integer", "multipleOf": 3}), "multipleOf"),
    (of(y={"type": "number", "maximum": -2, "multipleOf": 0.5}), "multipleOf"),
    (of(y={"type": "integer", "minimum": 0, "multipleOf": 9_999_991}), "multipleOf"),
    (of(y={"minimum": 0, "type": "integer", "allOf": [{"multipleOf": n} for n in (997, 991)]}), "multipleOf"),
    (of(x={"type": "string", "allOf": [{"pattern": f".*a{n}.*"} for n in range(30)]}), "pattern"),
    (of(**{f"p{n}": {"$ref": "#"} for n in range(1500)}), ""),
    ({"type": "object", "required": [f"p{n}" for n in range(50_000)]}, ""),
    ({"allOf": [of(**{f"p{n}": {"type": "string"}}) for n in range(3000)]}, ""),
    (of(**{f"p{n}": {} for n in range(2000)}) | {"patternProperties": {f"^q{n}": {} for n in range(300)}}, ""),
]


@pytest.mark.parametrize(("schema", "keyword"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_what_is_beyond_them_is_refused_soon(schema: Any, keyword: str) -> None:
    began = time.thread_time()
    with pytest.raises(ConstraintError) as caught:
        compile_schema(schema, arguments=True)
    assert not keyword or caught.value.keyword == keyword or keyword in str(caught.value)
    assert time.thread_time() - began < 10, "bounded in steps: this only catches what is not bounded at all"


def test_no_lone_surrogate_is_written_as_a_key() -> None:
    schema = of(m={"type": "object", "additionalProperties": {"type": "integer"}}, n=BOUND)
    assert accepts(schema, '{"m": {"é": 1}, "n": 1}') and not accepts(schema, r'{"m": {"\ud800": 1}, "n": 1}')


def test_many_conjunctions_take_no_time() -> None:
    began = time.thread_time()
    assert compile_schema({"allOf": [{"minLength": n} for n in range(9000)]}, arguments=True)
    assert time.thread_time() - began < 5, "in proportion to their number; it was its square"


def test_a_text_is_read_along() -> None:
    at = BEGIN.after(rb'{"a\"": [1, {"b": "x\\", "c')
    assert at.key == b"c" and at.used == (frozenset({rb"a\""}), None, frozenset({b"b"})) and at.inside == '"'
    assert at.after(b'": 12').run == 2 and at.after(b'": 12').inside == ""
    assert at.after(b'": {}}], "d').used == (frozenset({rb"a\""}),) and at.after(b'": {}}], "d').key == b"d"
    whole = BEGIN
    for byte in rb'{"a\"": [1, {"b": "x\\", "c':
        whole = whole.after(bytes((byte,)))
    assert whole == at._replace(ended=())


def test_an_anchor_stands_below_whatever_a_property_is_called() -> None:
    for name in ("default", "enum", "const", "examples", "properties"):
        schema = {"properties": {name: {"$anchor": "x", "type": "integer"}, "b": {"$ref": "#x"}}, "type": "object"}
        assert accepts(schema, '{"b": 1}') and not accepts(schema, '{"b": "1"}'), name
    data = {"const": {"$anchor": "x", "type": "integer"}}
    with pytest.raises(ConstraintError):
        compile_schema({"properties": {"a": data, "b": {"$ref": "#x"}}})


def test_a_number_that_python_does_not_write_is_refused() -> None:
    for schema in ({"minimum": 10**5000}, {"enum": [[-(10**5000)]]}, {"x": {"y": 10**5000}}):
        with pytest.raises(ConstraintError):
            byte_constraint().plan(schema)
    assert accepts({"type": "string", "maxLength": 10**1000}, '"a"')
