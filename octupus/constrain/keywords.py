"""What the keywords of plain subschemas say. Their forms are right: the validator has checked the schema before."""

from __future__ import annotations

from typing import Any

from octupus.constrain.logic import EXCLUDE
from octupus.constrain.schema import Location
from octupus.constrain.validate import matches
from octupus.wire.messages import canonical_json

NUMERIC = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
SCALAR_FACETS = NUMERIC | {"pattern", "minLength", "maxLength", "format"}
FORMATS = frozenset({"date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
"""Formats that the second authority implements; any other is always an annotation."""
OPEN = ("additionalProperties", "patternProperties", "unevaluatedProperties", "propertyNames")
"""What says whether an object takes properties that it does not declare."""
LEFT_OUT = {
    "string": frozenset({"pattern", "format", "$dynamicRef"}),
    "number": NUMERIC | {"$dynamicRef"},
    "array": frozenset({"uniqueItems", "contains", "unevaluatedItems", "$dynamicRef"}),
    "object": frozenset({"patternProperties", "propertyNames", "unevaluatedProperties", "$dynamicRef"}),
}
"""By type: assertions that lm-format-enforcer's grammar does not implement."""
ASSERTIONS = frozenset().union(
    *LEFT_OUT.values(),
    {"type", "enum", "const", "minLength", "maxLength", "items", "prefixItems", "minItems", "maxItems", "properties"},
    {"required", "additionalProperties", "minProperties", "maxProperties", "allOf", "anyOf", "oneOf", "not", "if"},
    {"$ref", "dependentRequired", "dependentSchemas", "dependencies"},
)


def type_of(value: Any) -> str:
    """The JSON type of a value."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def types(at: Location) -> set[str] | None:
    """The types that ``type`` names; None where it is not there."""
    named = at.schema.get("type")
    return None if named is None else {named} if isinstance(named, str) else set(named)


def values(parts: tuple[Location, ...]) -> list[Any] | None:
    """The values that const and enum leave; None where there is neither."""
    lists = []
    for at in parts:
        if "const" in at.schema:
            lists.append([at.schema["const"]])
        if "enum" in at.schema:
            lists.append(at.schema["enum"])
    excluded = {identity(value) for at in parts for value in at.schema.get(EXCLUDE, ())}
    if not lists:
        return None
    known = [{identity(value) for value in values} for values in lists[1:]]
    first = {identity(value): value for value in lists[0]}
    return [v for i, v in first.items() if i not in excluded and all(i in values for values in known)]


def identity(value: Any) -> Any:
    """Equal for what JSON Schema calls equal: 1 and 1.0 are, 1 and true are not; the order of keys is nothing."""
    if isinstance(value, dict):
        return ("object", frozenset((key, identity(inner)) for key, inner in value.items()))
    return ("array", *map(identity, value)) if isinstance(value, list) else (type_of(value), value)


def spellings(value: Any) -> list[str]:
    """The texts of a JSON value: its canonical one, and 1 for 1.0."""
    text = canonical_json(value)
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return [text, str(int(value))] if whole else [text]


def bounds(parts: tuple[Location, ...], low: str, high: str) -> tuple[int | None, int | None]:
    """The largest lower and the smallest upper bound."""
    lows, highs = ([int(at.schema[word]) for at in parts if word in at.schema] for word in (low, high))
    return max(lows, default=None), min(highs, default=None)


def property_of(at: Location, name: str) -> list[Location]:
    """What a subschema says of the property ``name``."""
    found = [at.under("properties", name)] if name in at.schema.get("properties", {}) else []
    patterns = [p for p in at.schema.get("patternProperties", {}) if matches(p).admits(name)]
    found += [at.under("patternProperties", pattern) for pattern in patterns]
    return found or ([at.under("additionalProperties")] if "additionalProperties" in at.schema else [])


def left_out(kind: str, at: Location, keyword: str) -> bool:
    """Whether this keyword asserts something of a type that lm-format-enforcer's grammar does not implement."""
    if keyword not in LEFT_OUT[kind]:
        return False
    value = at.schema[keyword]
    return value is True if keyword == "uniqueItems" else keyword == "contains" or (value is not True and value != {})
