"""A schema as a document: bounded in size, with every ``$ref`` resolved inside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

import jsonschema_rs

from octupus.errors import ConstraintError

MAX_DEPTH = 128
MAX_VALUES = 100_000
"""JSON values in one schema; more is refused."""
MAX_BITS = 10_000
"""Of a whole number, about 3,000 digits: longer ones Python itself does not write."""
_DATA = frozenset({"enum", "const", "default", "examples"})
"""What stands below these is no schema."""
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"})
"""What stands below these are schemas by names, which are no keywords."""


def escape(key: str | int) -> str:
    """One step of a JSON pointer (RFC 6901)."""
    return "/" + str(key).replace("~", "~0").replace("/", "~1")


@dataclass(frozen=True, eq=False)
class Location:
    """A subschema, where it stands (``pointer``, for messages) and against what its references resolve (``base``)."""

    schema: Any
    pointer: str
    base: str
    key: str
    """Unique in the document; equal keys mean the same subschema."""

    def under(self, *steps: str | int) -> Location:
        """The subschema below."""
        schema: Any = self.schema
        for step in steps:
            schema = schema[step]
        tail = "".join(map(escape, steps))
        return Location(schema, self.pointer + tail, _base(self.base, schema), self.key + tail)

    def instead(self, schema: dict[str, Any] | bool, name: str) -> Location:
        """A schema made up in this one's place; ``name`` tells it from others."""
        return Location(schema, self.pointer, self.base, f"{self.key}#{name}")


def _base(base: str, schema: Any) -> str:
    own = schema.get("$id") if isinstance(schema, dict) else None
    return urldefrag(urljoin(base, own))[0] if isinstance(own, str) else base


class Document:
    """A root schema.

    Raises:
        ConstraintError: too deep, too large, or no schema at all.
    """

    def __init__(self, schema: Any) -> None:
        named = bounded(schema)
        self.root = Location(schema, "", _base("", schema), "")
        self._named: dict[str, Location] = {self.root.base: self.root}
        if named:
            for at in _everywhere(self.root):
                self._named.setdefault(at.base, at)
                if isinstance(anchor := at.schema.get("$anchor"), str):
                    self._named[f"{at.base}#{anchor}"] = at

    def resolve(self, at: Location, keyword: str = "$ref") -> Location:
        """What ``at``'s reference names.

        Raises:
            ConstraintError: nothing in this document.
        """
        reference = at.schema[keyword]
        where, fragment = urldefrag(urljoin(at.base, reference)) if isinstance(reference, str) else ("?", "")
        fragment = unquote(fragment)
        found = self._named.get(f"{where}#{fragment}" if fragment else where)
        if found is None and where in self._named and fragment.startswith("/"):
            found = _follow(self._named[where], fragment)
        if found is None:
            reason = f"the reference {reference!r} names nothing in this schema"
            raise ConstraintError(reason, pointer=at.pointer + escape(keyword), keyword=keyword)
        return found


def _follow(at: Location, fragment: str) -> Location | None:
    place, base, tail = at.schema, at.base, ""
    for step in fragment.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(place, list) and step.isdecimal() and int(step) < len(place):
            place = place[int(step)]
        elif isinstance(place, dict) and step in place:
            place = place[step]
        else:
            return None
        tail, base = tail + escape(step), _base(base, place)
    if not isinstance(place, dict | bool) or not jsonschema_rs.meta.is_valid(place):
        return None
    return Location(place, at.pointer + tail, base, at.key + tail)


def bounded(schema: Any) -> bool:
    """Refuse what is no schema, too deep or too large; tell whether subschemas are named by ``$id`` or ``$anchor``."""
    if not isinstance(schema, dict | bool):
        raise ConstraintError("a schema must be an object, true or false")
    stack: list[tuple[Any, int]] = [(schema, 0)] if isinstance(schema, dict) else []
    count, named = 0, False
    while stack:
        value, depth = stack.pop()
        named = named or (depth > 0 and "$id" in value) or "$anchor" in value
        inner = value.values() if isinstance(value, dict) else value
        count += len(inner)
        if depth > MAX_DEPTH:
            raise ConstraintError(f"the schema is nested more than {MAX_DEPTH} levels deep")
        if count > MAX_VALUES:
            raise ConstraintError(f"the schema holds more than {MAX_VALUES} values")
        for item in inner:
            if isinstance(item, dict | list):
                stack.append((item, depth + 1))
            elif isinstance(item, float) and not isfinite(item):
                raise ConstraintError("the schema holds NaN or Infinity, which JSON does not know")
            elif isinstance(item, int) and item.bit_length() > MAX_BITS:
                raise ConstraintError(f"the schema holds a number of more than {MAX_BITS} bits")
    return named


def as_read(schema: Any, formats: frozenset[str]) -> Any:
    """A bounded schema as masks and validator both read it, so that they cannot disagree.

    - An ``enum`` beside ``type: array`` that holds no list would admit nothing: its author meant the items.
    - A ``format`` that is not among ``formats`` asserts nothing.
    """
    if isinstance(schema, list):
        return [as_read(part, formats) for part in schema]
    if not isinstance(schema, dict):
        return schema
    read: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, dict):
            read[key] = {name: as_read(inner, formats) for name, inner in value.items()}
        elif key != "format" or not isinstance(value, str) or value in formats:
            read[key] = value if key in _DATA else as_read(value, formats)
    choices = read.get("enum")
    flat = isinstance(choices, list) and choices and not any(isinstance(choice, list) for choice in choices)
    if flat and read.get("type") == "array":
        del read["enum"]
        read["items"] = {"allOf": [read["items"], {"enum": choices}]} if "items" in read else {"enum": choices}
    return read


def _everywhere(root: Location) -> Iterator[Location]:
    """Every object below ``root`` that may be a schema."""
    stack: list[tuple[Any, str, str, bool]] = [(root.schema, "", root.base, False)]
    while stack:
        value, pointer, base, named = stack.pop()
        if isinstance(value, dict) and not named:
            base = _base(base, value)
            yield Location(value, pointer, base, pointer)
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            if isinstance(inner, dict | list) and (named or key not in _DATA):
                stack.append((inner, pointer + escape(key), base, not named and key in _NAMED))
