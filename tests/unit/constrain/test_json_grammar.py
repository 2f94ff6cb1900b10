"""What the masks let through, text by text: JSON as Python's json writes it, and nothing that breaks its schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octupus.wire.messages import canonical_json
from tests.unit.constrain.setting import accepts, accepts_value, byte_constraint

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "n": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}
CASES: list[tuple[str, Any, str, bool]] = [
    ("no comma before a brace", CITY, '{"city": "a", }', False),
    ("no comma before a brace, minified", CITY, '{"city": "a",}', False),
    ("a whole object", CITY, '{"city": "a", "n": 1}', True),
    ("any order", CITY, '{"n": 1, "city": "a"}', True),
    ("required is required", CITY, '{"n": 1}', False),
    ("no key twice", CITY, '{"city": "a", "city": "b"}', False),
    ("nothing behind it", CITY, '{"city": "a"} ', False),
    ("canonical white space only", CITY, '{"city":"a"}', False),
    ("not two blanks", CITY, '{"city":  "a"}', False),
    ("not before it", CITY, ' {"city": "a"}', False),
    ("no raw control character", CITY, '{"city": "a\nb"}', False),
    ("escapes as json writes them", CITY, '{"city": "\\n\\t\\"\\\\\\u0001\\u001f\\b\\f\\r"}', True),
    ("no other spelling of a line break", CITY, '{"city": "\\u000a"}', False),
    ("no escaped letter", CITY, '{"city": "\\u0061"}', False),
    ("no lone surrogate", CITY, '{"city": "\\ud800"}', False),
    ("no escaped slash", CITY, '{"city": "\\/"}', False),
    ("characters that begin no token", CITY, '{"city": "e\u0301 \U0001f468\u200d\U0001f469 ไทย"}', True),
    ("no leading zero", CITY, '{"city": "a", "n": 01}', False),
    ("no exponent in an integer", CITY, '{"city": "a", "n": 1e5}', False),
    ("no fraction in an integer", CITY, '{"city": "a", "n": 1.0}', False),
    ("no minus zero integer", CITY, '{"city": "a", "n": -0}', False),
    ("a negative integer", CITY, '{"city": "a", "n": -12}', True),
    ("digits are capped", {"type": "integer"}, "1" * 40, True),
    ("digits are capped", {"type": "integer"}, "1" * 41, False),
    ("a number", {"type": "number"}, "-0.5e-07", True),
    ("minus zero", {"type": "number"}, "-0.0", True),
    ("a finite number", {"type": "number"}, "1e299", True),
    ("no infinite number", {"type": "number"}, "1e999", False),
    ("no infinite number, many digits", {"type": "number"}, "1" * 39 + "e300", False),
    ("a number does not end in a point", {"type": "number"}, "1.", False),
    ("no number at all", {"type": "number"}, "-", False),
    ("lengths count characters", {"type": "string", "minLength": 2, "maxLength": 2}, '"中文"', True),
    ("lengths count characters", {"type": "string", "minLength": 2}, '"é"', False),
    ("lengths count characters", {"type": "string", "maxLength": 2}, '"😀😀"', True),
    ("an escape is one character", {"type": "string", "maxLength": 1}, '"\\u0001"', True),
    ("an escape is one character", {"type": "string", "minLength": 2}, '"\\n"', False),
    ("leading blanks count", {"type": "string", "maxLength": 2}, '"   "', False),
    ("enum of any kind", {"enum": ["a", 1, 1.5, None, True, [1, "x"], {"k": []}]}, '{"k": []}', True),
    ("enum of any kind", {"enum": ["a", 1, 1.5, None, True, [1, "x"]]}, '[1, "x"]', True),
    ("enum: a prefix of another", {"enum": [1, 10, 100]}, "10", True),
    ("enum: a prefix of another", {"enum": [1, 100]}, "10", False),
    ("enum with a quote and a line break", {"enum": ['a "b"\n']}, '"a \\"b\\"\\n"', True),
    ("enum: 1.0 is 1", {"enum": [1.0]}, "1", True),
    ("enum beside type", {"enum": ["a", 1], "type": "integer"}, '"a"', False),
    ("const", {"const": None}, "null", True),
    ("no type", {}, '[1, {"a": "b"}, null]', True),
    ("no type", True, "-1.5", True),
    ("types", {"type": ["string", "null"]}, "null", True),
    ("types", {"type": ["string", "null"]}, "1", False),
    ("a key with a quote", {"properties": {'a"b\n': {"const": 1}}, "required": ['a"b\n']}, '{"a\\"b\\n": 1}', True),
    ("a key that is no ASCII", {"properties": {"城市": {"const": 1}}}, '{"城市": 1}', True),
    ("undeclared keys", {"properties": {"a": {"const": 1}}}, '{"ab": true, "a": 1, "": []}', True),
    ("a declared key keeps its type", {"properties": {"a": {"const": 1}}}, '{"b": 2, "a": 2}', False),
    ("undeclared keys are not repeated", {"type": "object"}, '{"b": 1, "b": 1}', False),
    ("additionalProperties", {"additionalProperties": {"type": "integer"}, "type": "object"}, '{"a": "x"}', False),
    ("additionalProperties", {"additionalProperties": {"type": "integer"}, "type": "object"}, '{"a": 1, "b": 2}', True),
    ("required undeclared", {"type": "object", "required": ["x"]}, "{}", False),
    ("required undeclared", {"type": "object", "required": ["x"]}, '{"x": 1}', True),
    ("more than 20 items", {"type": "array", "items": {"type": "integer"}}, str([1] * 50), True),
    ("items that are objects are counted once", {"items": {"type": "object"}, "maxItems": 3}, "[{}, {}, {}]", True),
    ("items that are objects are counted once", {"items": {"type": "object"}, "maxItems": 2}, "[{}, {}, {}]", False),
    (
        "items that are objects are counted once",
        {"type": "array", "items": {"type": "object"}, "minItems": 2},
        "[{}]",
        False,
    ),
    ("minItems", {"type": "array", "minItems": 1}, "[]", False),
    ("maxItems 0", {"type": "array", "maxItems": 0}, "[]", True),
    ("maxItems 0", {"type": "array", "maxItems": 0}, "[1]", False),
    ("prefixItems", {"prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False}, '[1, "a"]', True),
    ("prefixItems", {"prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False}, '[1, "a", 2]', False),
    ("prefixItems", {"prefixItems": [{"type": "integer"}], "items": {"type": "string"}}, "[1, 1]", False),
    ("minProperties", {"type": "object", "minProperties": 2}, '{"a": 1}', False),
    ("maxProperties", {"type": "object", "maxProperties": 1}, '{"a": 1, "b": 1}', False),
    ("maxProperties leaves room", {"type": "object", "required": ["r"], "maxProperties": 1}, '{"a": 1}', False),
    ("allOf", {"allOf": [{"type": "string", "minLength": 1}, {"maxLength": 2}]}, '"abc"', False),
    (
        "allOf",
        {"allOf": [{"properties": {"a": {"type": "integer"}}}, {"required": ["a"]}], "type": "object"},
        "{}",
        False,
    ),
    ("anyOf beside", {"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, '{"b": 1}', True),
    ("anyOf beside", {"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, '{"c": 1}', False),
    (
        "anyOf keeps its branches apart",
        {"anyOf": [{"type": "integer"}, {"type": "number", "enum": [1.5]}]},
        "2.5",
        False,
    ),
    ("oneOf", {"oneOf": [{"type": "string"}, {"type": "integer"}]}, "1", True),
    (
        "oneOf, overlapping",
        {"oneOf": [{"required": ["a"]}, {"required": ["b"]}], "type": "object"},
        '{"a": 1, "b": 1}',
        False,
    ),
    ("not", {"not": {"type": "string"}}, '"a"', False),
    ("not", {"not": {"enum": ["ab", "b"]}, "type": "string"}, '"ab"', False),
    ("not", {"not": {"enum": ["ab", "b"]}, "type": "string"}, '"abc"', True),
    (
        "if",
        {"if": {"properties": {"k": {"const": "x"}}, "required": ["k"]}, "then": {"required": ["v"]}},
        '{"k": "x"}',
        False,
    ),
    (
        "if",
        {"if": {"properties": {"k": {"const": "x"}}, "required": ["k"]}, "then": {"required": ["v"]}},
        '{"k": "y"}',
        True,
    ),
    ("dependentRequired", {"dependentRequired": {"a": ["b"]}, "type": "object"}, '{"a": 1}', False),
    ("dependentRequired", {"dependentRequired": {"a": ["b"]}, "type": "object"}, '{"a": 1, "b": 2}', True),
    ("$ref", {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "integer"}}}, "1", True),
    (
        "$ref by its whole path",
        {"$ref": "#/$defs/x/$defs/a", "$defs": {"a": False, "x": {"$defs": {"a": True}}}},
        "1",
        True,
    ),
    ("recursion", {"type": "object", "additionalProperties": {"$ref": "#"}}, '{"a": {"b": {}}}', True),
    ("recursion", {"type": "object", "additionalProperties": {"$ref": "#"}}, '{"a": {"b": 1}}', False),
    (
        "an anyOf inside an anyOf",
        {
            "anyOf": [{"$ref": "#/$defs/o"}, {"type": "array"}],
            "$defs": {"o": {"anyOf": [{"type": "object", "required": ["a"]}, {"type": "object", "required": ["b"]}]}},
        },
        '{"b": 1}',
        True,
    ),
]


@pytest.mark.parametrize(("what", "schema", "text", "legal"), CASES, ids=lambda value: str(value)[:40])
def test_case(what: str, schema: Any, text: str, legal: bool) -> None:
    assert accepts(schema, text) is legal


def test_broken_utf8_is_refused() -> None:
    for text in (b'"\xe4\xb8"', b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\xaf"', b'"\xf4\x90\x80\x80"', b'"\x80"'):
        assert not accepts({"type": "string"}, text)
        assert not accepts({"enum": ["中"]}, text)
    assert accepts({"type": "string"}, '"中\U0010ffff"')


def test_white_space_as_the_model_likes_it() -> None:
    loose = byte_constraint("any")
    for text in ('{"city":"a"}', '{\n  "city": "a",\n  "n":  1\n}', '{ "city": "a"}'):
        assert accepts(CITY, text, loose)
    for text in ('{"city": "a",}', '{"city": "a" "n": 1}', '{"city": "\n"}', '{"city": "a"' + " " * 30 + "}"):
        assert not accepts(CITY, text, loose)
    assert accepts({"items": {"type": "integer"}}, "[ 1,2 , 3 ]", loose)


def test_arguments_are_closed_objects() -> None:
    schema = {"properties": {"a": {"type": "object", "properties": {"b": True}}, "c": {"type": "object"}}}
    assert accepts_value(schema, {"a": {"b": 1}, "c": {"x": 1}}, arguments=True)
    assert not accepts(schema, '{"x": 1}', arguments=True)
    assert not accepts(schema, '{"a": {"x": 1}}', arguments=True)
    assert not accepts(schema, "[]", arguments=True)
    assert accepts(schema | {"additionalProperties": True}, '{"x": 1}', arguments=True)
    assert accepts(True, '{"x": 1}', arguments=True) and accepts({"type": "object"}, '{"x": 1}', arguments=True)
    nothing = {"type": "object", "properties": {}}
    assert accepts(nothing, "{}", arguments=True) and not accepts(nothing, '{"x": 1}', arguments=True)
    assert accepts({"properties": {"free": nothing}}, '{"free": {"x": 1}}', arguments=True)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.text()
    | st.floats(-1e200, 1e200).filter(lambda x: x == 0 or abs(x) > 1e-290),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=120, deadline=None)
@given(VALUES)
def test_every_value_as_json_writes_it(value: Any) -> None:
    text = canonical_json(value)
    assert accepts(True, text)
    assert accepts({"const": value}, text)
    assert json.loads(text) == value
