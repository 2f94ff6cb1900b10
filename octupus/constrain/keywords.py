"""What the keywords of plain subschemas say, to llguidance too. Their forms are right: the validator checks them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from math import inf, lcm, nextafter
from typing import Any

from octupus.constrain.logic import EXCLUDE
from octupus.constrain.nodes import Node
from octupus.constrain.schema import Location
from octupus.constrain.validate import matches
from octupus.errors import ConstraintError
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
MAX_PATTERNS, MAX_STEP = 3, 10_000
"""Of one value: patterns, and what it must be a multiple of (its decimals left out)."""
EXACT = 2**53
"""Whole numbers that a double can tell from their neighbours are smaller."""
TINY = 1e-60
"""Smaller than any other positive number that can be written with so few digits (``lexing.MAX_DIGITS``)."""
_LOWER = ("minimum", "exclusiveMinimum")


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


def bounded(node: Node, facets: Iterable[dict[str, Any]]) -> None:
    """Refuse what llguidance takes seconds for or fails at, and what its grammar makes narrower than the schema."""
    facets, pointer = list(facets), node.parts[0].pointer if node.parts else ""
    if len({facet["pattern"] for facet in facets if "pattern" in facet}) > MAX_PATTERNS:
        raise ConstraintError(f"more than {MAX_PATTERNS} patterns for one string", pointer=pointer, keyword="pattern")
    steps = [Fraction(str(facet["multipleOf"])) for facet in facets if "multipleOf" in facet]
    if steps and lcm(*(step.numerator for step in steps)) > MAX_STEP:
        raise ConstraintError(f"a step over {MAX_STEP}", pointer=pointer, keyword="multipleOf")
    least = [v for facet in facets for k, v in facet.items() if k in _LOWER]
    if steps and max(least, default=-1) < 0:
        reason = "of negative numbers no multiples can be generated; with a minimum of 0 or more this can be enforced"
        raise ConstraintError(reason, pointer=pointer, keyword="multipleOf")
    for keyword, value in _bounds(facets):
        if (value if keyword in _LOWER else -value) > EXACT:  # for some of these it ends the whole process
            raise ConstraintError("only numbers beyond 2**53 are left", pointer=pointer, keyword=keyword)


def _bounds(facets: Iterable[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    return ((k, value) for facet in facets for k, value in facet.items() if k in NUMERIC and k != "multipleOf")


def inside(facet: dict[str, Any]) -> dict[str, Any]:
    """A facet whose bound, where no double is equal to it, is the next double that it admits."""
    for keyword, value in _bounds([facet]):
        if isinstance(value, int) and EXACT < abs(value) < 2**1023 and (double := float(value)) != value:
            below, lower = double < value, keyword in _LOWER
            return {keyword: int(double if below != lower else nextafter(double, inf if lower else -inf))}
    return facet


def edges(facets: Iterable[dict[str, Any]]) -> Iterator[dict[str, float]]:
    """Inclusive bounds beside exclusive ones that llguidance lets in: whole, nearer to zero, the other within one."""
    bounds = [(keyword in _LOWER, Fraction(value), keyword.startswith("ex")) for keyword, value in _bounds(facets)]
    if len({lower for lower, *_ in bounds}) < 2:
        return
    low, above = max((value, exclusive) for lower, value, exclusive in bounds if lower)
    high, below = min((value, not exclusive) for lower, value, exclusive in bounds if not lower)
    near = 0 < high - low < 1
    if near and low.denominator == 1 < high.denominator and above and low >= 0:
        yield {"minimum": nextafter(float(low), inf) if low else TINY}
    if near and high.denominator == 1 < low.denominator and not below and high <= 0:
        yield {"maximum": nextafter(float(high), -inf) if high else -TINY}


def written(value: Any, pointer: str = "") -> Any:
    """A literal value as llguidance writes it: whole numbers without a fraction.

    Raises:
        ConstraintError: it would write another number, or one with an exponent in a way that nobody else does.
    """
    if isinstance(value, dict):
        return {key: written(inner, pointer) for key, inner in value.items()}
    if isinstance(value, list):
        return [written(inner, pointer) for inner in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if abs(value) > EXACT or "e" in repr(value):
        raise ConstraintError("a number of more digits than llguidance writes", pointer=pointer, keyword="enum")
    return int(value) if value == int(value) else value
