"""What of a parser state decides which tokens may follow, whatever the schema calls its properties.

A token reaches from the inside of a value to the quote that opens the next key and no further (else nothing is alike,
see ``Grammar.apart``): so which keys there are does not matter inside values, only whether another may follow.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from itertools import count
from typing import Any

from octupus.constrain.nodes import Node
from octupus.constrain.parsers import ObjectParsingStage

AHEAD = 4
"""Items that one token can reach ahead."""
MAX_LITERALS = 64
"""Characters of all texts of a literal that is worth a shape."""
MAX_NODES = 32
"""Of one array's items."""


def shape_of(kind: str, state: Any) -> Hashable | None:
    """Equal for states that allow the same tokens; None where names of the schema matter."""
    if kind == "string":
        return None if state.allowed_strings.texts else (state.min_length, state.max_length)
    if kind == "number":
        return bool(state.allow_floating_point)
    if kind == "text":
        return str(state.target_str)
    if kind == "literal":
        texts = tuple(state.allowed_strings)
        return texts if sum(map(len, texts)) <= MAX_LITERALS else None
    if kind == "object":
        return _object(state)
    if kind == "list":
        array, seen = state.list_member_type, state.num_items_seen
        items = _items(array)
        if items is None:
            return None
        least, most = (array.minItems or 0) - seen, AHEAD if array.maxItems is None else array.maxItems - seen
        return state.seen_list_opener, seen > 0, min(max(least, 0), AHEAD), min(most, AHEAD), items
    return None


def _object(state: Any) -> Hashable | None:
    node, keys, stage = state.schema_object, set(state.existing_keys), state.current_stage
    if stage not in (ObjectParsingStage.START_OBJECT, ObjectParsingStage.PARSING_VALUE):
        return None
    return (stage is ObjectParsingStage.START_OBJECT, *_ends(node, keys))


def _ends(node: Node, keys: set[str]) -> tuple[bool, bool]:
    """Whether an object with these keys may end, and whether another key may follow."""
    ends = keys.issuperset(node.required) and len(keys) >= node.min_properties
    more = node.properties.additional is not None or any(key not in keys for key in dict.keys(node.properties))
    return ends, more and (node.max_properties is None or len(keys) < node.max_properties)


def _items(array: Node) -> Hashable | None:
    """The shape of an array's items; None where they differ by place or names matter."""
    if array.shape is None:
        array.shape = (None,) if array.prefix or array.rest is None else (_value(array.rest, [array], count()),)
    return array.shape[0]


def _value(node: Node, above: list[Node], seen: Iterator[int]) -> Hashable | None:
    """How a value that obeys ``node`` may begin and end; recursion is said as how far up it leads."""
    if node in above:
        return "up", len(above) - above.index(node)
    if next(seen) > MAX_NODES:
        return None
    above = [*above, node]
    if node.type is None and not node.enum:
        shapes = [_value(alternative, above, seen) for alternative in node.anyOf]
        return None if None in shapes else ("any", *shapes)
    if node.type is None:
        texts = tuple(literal.text for literal in node.enum)
        return texts if sum(map(len, texts)) <= MAX_LITERALS else None
    if node.type == "string":
        return None if node.enum.texts else ("string", node.minLength, node.maxLength)  # type: ignore[attr-defined]
    if node.type == "object":
        return ("object", *_ends(node, set()))
    if node.type == "array":
        rest = None if node.prefix or node.rest is None else _value(node.rest, above, seen)
        return None if rest is None else ("array", node.minItems, node.maxItems, rest)
    return node.type
