"""Published data sets write schemas in Python's words; this turns them into JSON Schema, or says where it cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octupus.errors import DataError

TYPES = {
    "dict": "object",
    "int": "integer",
    "float": "number",
    "double": "number",
    "str": "string",
    "bool": "boolean",
    "list": "array",
    "tuple": "array",
    "set": "array",
}
ANY = {"any", "all", ""}
LEGAL = {"object", "integer", "number", "string", "boolean", "array", "null"}


def repaired(schema: Any, pointer: str = "") -> dict[str, Any]:
    """A copy with legal types at every depth; ``required: true`` on a property moves to its object.

    Raises:
        DataError: with the JSON pointer of what cannot be repaired.
    """
    if not isinstance(schema, Mapping):
        raise DataError(f"a tool's schema cannot be repaired: {pointer or '/'}: {type(schema).__name__}, not an object")
    fixed: dict[str, Any] = dict(schema)
    if "type" in fixed:
        fixed["type"] = _type(fixed["type"], pointer)
        if fixed["type"] is None:
            fixed.pop("type")
    if fixed.get("enum") in (None, [], [None]):  # Hermes writes [null] for "none"
        fixed.pop("enum", None)
    if isinstance(fixed.get("properties"), Mapping):
        _properties(fixed, pointer)
    elif "properties" in fixed:
        fixed.pop("properties")
    for key in ("items", "additionalProperties", "not"):
        if isinstance(fixed.get(key), Mapping):
            fixed[key] = repaired(fixed[key], f"{pointer}/{key}")
    for key in ("$defs", "definitions", "patternProperties"):
        if isinstance(fixed.get(key), Mapping):
            fixed[key] = {name: repaired(inner, f"{pointer}/{key}/{name}") for name, inner in fixed[key].items()}
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        if isinstance(fixed.get(key), list):
            fixed[key] = [repaired(s, f"{pointer}/{key}/{i}") for i, s in enumerate(fixed[key])]
    if not isinstance(fixed.get("required", []), list):
        fixed.pop("required")
    return fixed


def _type(value: Any, pointer: str) -> str | list[str] | None:
    """The legal type or types; None for any."""
    names = value if isinstance(value, list) else [value]
    found = []
    for name in names:
        word = str(name).strip().lower() if name is not None else "null"
        word = word.partition("[")[0]  # List[str]
        if word in ANY:
            return None
        word = TYPES.get(word, word)
        if word not in LEGAL:
            raise DataError(f"a tool's schema cannot be repaired: {pointer}/type: {name!r}")
        found.append(word)
    return found if isinstance(value, list) else found[0]


def _properties(fixed: dict[str, Any], pointer: str) -> None:
    required = fixed.get("required")
    needed = list(required) if isinstance(required, list) else []
    properties = {}
    for name, inner in fixed["properties"].items():
        if inner is None:  # parquet gives every row's schema the properties of all
            continue
        inner = dict(inner) if isinstance(inner, Mapping) else inner
        if isinstance(inner, dict) and isinstance(inner.get("required"), bool) and inner.pop("required"):
            needed.append(name)
        properties[name] = repaired(inner, f"{pointer}/properties/{name}")
    fixed["properties"] = properties
    if needed:
        fixed["required"] = [name for name in dict.fromkeys(needed) if name in properties]
