"""The logic of a schema (allOf, anyOf, oneOf, not, if, references, dependencies) as a choice of plain subschemas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from octupus.constrain.schema import Document, Location
from octupus.errors import ConstraintError

TYPES = ("null", "boolean", "string", "number", "array", "object")
MAX_ALTERNATIVES = 256
MAX_STEPS = 20_000
"""Subschemas looked at while one schema is normalised; counted, so that the bound does not depend on the machine."""

EXCLUDE = ("exclude",)
"""A keyword of our own, of a kind that no JSON can hold: the value is none of these."""

Mark = tuple[str, str]
"""(JSON pointer, keyword) of something that the plain conjunctions do not say."""


@dataclass(frozen=True)
class Alternative:
    """All of ``parts`` hold, of each only the keywords that are no logic; ``marks`` is what was left out."""

    parts: tuple[Location, ...]
    marks: frozenset[Mark] = frozenset()


@dataclass(frozen=True)
class _Goal:
    """A subschema still to be looked at, and those whose logic led to it without going into the value."""

    at: Location
    above: frozenset[str]

    def then(self, at: Location) -> _Goal:
        return _Goal(at, self.above | {self.at.key})


Option = tuple[_Goal, ...]


class Logic:
    """Expands sets of subschemas.

    Args:
        disjoint: whether no value satisfies all of these subschemas (False: not known).
    """

    def __init__(self, document: Document, disjoint: Callable[[tuple[Location, ...]], bool]) -> None:
        self._document, self._disjoint = document, disjoint
        self._steps = 0
        self.at = document.root
        """What was looked at last, for messages."""

    def step(self, at: Location, count: int = 1) -> None:
        """Spend a part of the budget.

        Raises:
            ConstraintError: it is spent.
        """
        self._steps, self.at = self._steps + count, at
        if self._steps > MAX_STEPS:
            raise ConstraintError("the schema is too complex to normalise", pointer=at.pointer)

    def alternatives(self, goal: tuple[Location, ...]) -> list[Alternative]:
        """What satisfies every subschema of ``goal``: any of these.

        Raises:
            ConstraintError: too many alternatives, or a reference that leads to itself.
        """
        found: list[Alternative] = []
        pending: list[tuple[Option, Alternative, tuple[tuple[Option, ...], ...]]] = []
        pending.append((tuple(_Goal(at, frozenset()) for at in goal), Alternative(()), ()))
        while pending:
            goals, done, choices = pending.pop()
            settled = self._settle(goals, done, choices)
            if settled is None:
                continue
            done, choices = settled
            if not choices:
                found.append(done)
            else:
                pending += [(option, done, choices[1:]) for option in reversed(choices[0])]
            if len(found) + len(pending) > MAX_ALTERNATIVES:
                raise ConstraintError(f"more than {MAX_ALTERNATIVES} alternatives", pointer=goal[0].pointer)
        return found

    def _settle(
        self, goals: Option, done: Alternative, choices: tuple[tuple[Option, ...], ...]
    ) -> tuple[Alternative, tuple[tuple[Option, ...], ...]] | None:
        """Take what must hold, collect what may be chosen; None where something cannot hold."""
        parts = {at.key: at for at in done.parts}
        marks, todo, open_choices = set(done.marks), list(goals), list(choices)
        while todo:
            goal = todo.pop()
            at = goal.at
            self.step(at)
            if at.schema is False:
                return None
            if at.key in goal.above:
                raise ConstraintError("a reference that leads back to itself", pointer=at.pointer, keyword="$ref")
            if at.schema is True or at.key in parts:
                continue
            parts[at.key] = at
            todo += self._must(goal)
            for options, mark in self._may(goal):
                marks |= mark
                open_choices.append(options)
        return Alternative(tuple(parts.values()), frozenset(marks)), tuple(open_choices)

    def _must(self, goal: _Goal) -> Iterator[_Goal]:
        at = goal.at
        if "$ref" in at.schema:
            yield goal.then(self._document.resolve(at))
        for index in range(len(at.schema.get("allOf", ()))):
            yield goal.then(at.under("allOf", index))

    def _may(self, goal: _Goal) -> Iterator[tuple[tuple[Option, ...], set[Mark]]]:
        at = goal.at
        if "anyOf" in at.schema:
            yield tuple((goal.then(at.under("anyOf", i)),) for i in range(len(at.schema.get("anyOf", ())))), set()
        if "oneOf" in at.schema:
            yield self._one_of(goal)
        if "not" in at.schema:
            denied = self._denied(goal, at.under("not"))
            yield denied if denied is not None else (((),), {(at.pointer, "not")})
        if "if" in at.schema and ("then" in at.schema or "else" in at.schema):
            yield self._if(goal)
        yield from self._dependencies(goal)

    def _one_of(self, goal: _Goal) -> tuple[tuple[Option, ...], set[Mark]]:
        at, marks = goal.at, set[Mark]()
        branches = [at.under("oneOf", index) for index in range(len(at.schema.get("oneOf", ())))]
        tags = {branch: self._tags(branch) for branch in branches}
        beside = at.instead({k: v for k, v in at.schema.items() if k not in _LOGIC}, "beside oneOf")
        options: list[Option] = []
        for branch in branches:
            option: list[Option] = [(goal.then(branch),)]
            for other in branches:
                if other is branch or any(v.isdisjoint(tags[other].get(k, v)) for k, v in tags[branch].items()):
                    continue
                if self._disjoint((beside, branch, other)):
                    continue
                denied = self._denied(goal, other)
                if denied is None:
                    marks.add((at.pointer, "oneOf"))
                else:
                    option = [a + b for a in option for b in denied[0]]
                    marks |= denied[1]
                if len(option) > MAX_ALTERNATIVES:
                    raise ConstraintError("oneOf has too many alternatives", pointer=at.pointer, keyword="oneOf")
            options += option
        return tuple(options), marks

    def _tags(self, at: Location) -> dict[str, frozenset[object]]:
        """What tells a branch of a oneOf from others at a glance: its type, and required properties of few values."""
        for _ in range(8):
            if not isinstance(at.schema, dict) or "$ref" not in at.schema:
                break
            at = self._document.resolve(at)
        if not isinstance(at.schema, dict):
            return {}
        named, required = at.schema.get("type"), at.schema.get("required", [])
        found = {"": frozenset([named])} if named in TYPES else {}
        properties = at.schema.get("properties", {}) if named == "object" else {}
        for name, inner in properties.items() if isinstance(properties, dict) else ():
            if name not in required or not isinstance(inner, dict):
                continue
            values = [inner["const"]] if "const" in inner else inner.get("enum")
            if isinstance(values, list) and not any(isinstance(value, dict | list) for value in values):
                found[f"/{name}"] = frozenset((isinstance(value, bool), value) for value in values)
        return found

    def _if(self, goal: _Goal) -> tuple[tuple[Option, ...], set[Mark]]:
        at = goal.at
        then = (goal.then(at.under("then")),) if "then" in at.schema else ()
        otherwise = (goal.then(at.under("else")),) if "else" in at.schema else ()
        denied = self._denied(goal, at.under("if"))
        if denied is None:
            return (then, otherwise), {(at.pointer, "if")}
        return ((goal.then(at.under("if")), *then), *(option + otherwise for option in denied[0])), denied[1]

    def _dependencies(self, goal: _Goal) -> Iterator[tuple[tuple[Option, ...], set[Mark]]]:
        at = goal.at
        for keyword in _DEPENDENCIES:
            needs = at.schema.get(keyword, {})
            for name in needs if isinstance(needs, dict) else ():
                absent = at.instead({"properties": {name: False}}, f"without {name}")
                if isinstance(needs[name], list):
                    present = at.instead({"required": needs[name]}, f"{keyword} of {name}")
                else:
                    present = at.under(keyword, name)
                yield ((goal.then(absent),), (goal.then(present),)), set()

    def _denied(self, goal: _Goal, at: Location) -> tuple[tuple[Option, ...], set[Mark]] | None:
        """The ways in which ``at`` does not hold; None where they cannot be said.

        Not said, so never chosen: a number that is no integer, because ``type: integer`` does not hold of it.
        """
        self.step(at)
        schema = at.schema
        if isinstance(schema, bool):
            return (() if schema else ((),)), set()
        made: list[dict[Any, object]] = []
        options: list[Option] = []
        for keyword, value in schema.items():
            if keyword in _INEXPRESSIBLE:
                return None
            if keyword == "$ref":
                target = self._document.resolve(at)
                if target.key in goal.above:
                    raise ConstraintError("a reference that leads to itself", pointer=at.pointer, keyword="$ref")
                denied = self._denied(goal.then(at), target)
                if denied is None:
                    return None
                options += denied[0]
            elif keyword in ("anyOf", "oneOf"):
                count = range(len(at.schema.get(keyword, ())))
                options.append(tuple(goal.then(_not(at, keyword, i)) for i in count))
                if keyword == "oneOf" and len(count) > 1:
                    pairs = [(at.under("oneOf", i), at.under("oneOf", j)) for i in count for j in count if i < j]
                    options += [(goal.then(a), goal.then(b)) for a, b in pairs if not self._disjoint((a, b))]
            elif keyword == "allOf":
                options += [(goal.then(_not(at, keyword, i)),) for i in range(len(at.schema.get(keyword, ())))]
            elif keyword == "not":
                options.append((goal.then(at.under("not")),))
            else:
                made += _opposites(keyword, value)
        options += [(goal.then(at.instead(schema, f"opposite {i}")),) for i, schema in enumerate(made)]
        return tuple(options), set()


_DEPENDENCIES = ("dependentRequired", "dependentSchemas", "dependencies")
_LOGIC = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "$ref", *_DEPENDENCIES})
_INEXPRESSIBLE = frozenset(
    {"pattern", "multipleOf", "uniqueItems", "items", "prefixItems", "contains", "additionalItems", "propertyNames"}
    | {"additionalProperties", "patternProperties", "unevaluatedItems", "unevaluatedProperties", "if", "$dynamicRef"}
    | {"dependentSchemas", "dependentRequired", "dependencies", "minContains", "maxContains", "format"}
)


def _not(at: Location, *steps: str | int) -> Location:
    inner = at.under(*steps)
    return Location({"not": inner.schema}, inner.pointer, at.base, inner.key + "#not")


def _opposites(keyword: str, value: object) -> Iterator[dict[Any, object]]:
    """Schemas that together say that one keyword does not hold."""
    if keyword == "type":
        named = set(value) if isinstance(value, list) else {value}
        yield {"type": [t for t in TYPES if t not in named and not (t == "number" and "integer" in named)]}
    elif keyword in ("enum", "const"):
        yield {EXCLUDE: value if keyword == "enum" else [value]}
    elif keyword in _BOUNDS and isinstance(value, int | float):
        kind, opposite, offset = _BOUNDS[keyword]
        if int(value) + offset >= 0:
            yield {"type": kind, opposite: int(value) + offset}
    elif keyword in _NUMBERS:
        yield {"type": "number", _NUMBERS[keyword]: value}
    elif keyword == "required" and isinstance(value, list):
        for name in value:
            yield {"type": "object", "properties": {name: False}}
    elif keyword == "properties" and isinstance(value, dict):
        for name, inner in value.items():
            yield {"type": "object", "required": [name], "properties": {name: {"not": inner}}}


_BOUNDS = {
    "minLength": ("string", "maxLength", -1),
    "maxLength": ("string", "minLength", 1),
    "minItems": ("array", "maxItems", -1),
    "maxItems": ("array", "minItems", 1),
    "minProperties": ("object", "maxProperties", -1),
    "maxProperties": ("object", "minProperties", 1),
}
_NUMBERS = {
    "minimum": "exclusiveMaximum",
    "maximum": "exclusiveMinimum",
    "exclusiveMinimum": "maximum",
    "exclusiveMaximum": "minimum",
}
