"""What nearly every schema comes to is worked out once, when the vocabulary is set up: positions inside values of
usual types, below objects that may end here or not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from itertools import islice
from typing import Any

from octupus.constrain.automaton import Automaton, State
from octupus.constrain.grammar import Grammar
from octupus.constrain.nodes import Node
from octupus.constrain.normal import Normal
from octupus.constrain.sets import Shared
from octupus.constrain.vocabulary import Vocabulary
from octupus.errors import ConstraintError

MAX_REHEARSED, MAX_NODES = 2_000, 64
"""Characters of a rehearsed answer, and values in it."""
_NUMBERS = {"integer": "10", "number": "10.5"}
_TEXTS = {"string": ['"x"'], "number": ["-10.5e+10", "1.5", "0.5"], "integer": ["-10", "0"], "boolean": ["true"]}


def prepare(shared: Shared) -> None:
    """Fill the shared sets of tokens along texts of some usual schemas."""
    for schema, text in _usual():
        normal = Normal(schema, arguments=True, closed=True)
        automaton = Automaton(Grammar(normal.root, "", "", shared, any_space=False), shared, normal)
        state: State | None = automaton.start
        for byte in text.encode():
            assert state is not None
            state.mask()
            state = automaton.step(state, byte)
        assert state is not None and state.ended


def rehearse(automaton: Automaton, vocabulary: Vocabulary, node: Node, head: str, tail: str) -> None:
    """Go through two answers that a model may well give: with all properties, and with those required."""
    for whole in (True, False):
        text = head + _skeleton(node, whole, itertools.count()) + tail
        if vocabulary.encode is None or len(text) > MAX_REHEARSED:
            return
        state: State | None = automaton.start
        for token in vocabulary.encode(text.encode("latin-1").decode()):
            assert state is not None
            try:
                state.mask()
                state = state.advance(token)
            except ConstraintError:
                return  # a request that comes here is told so; others need not
            if state is None:
                break


def _skeleton(node: Node | None, whole: bool, seen: Iterator[int]) -> str:
    """A short value of ``node``, as text; of what is large or long only the beginning, which is right."""
    if node is None or next(seen) > MAX_NODES:
        return "null"
    if node.type is None:
        inner = _skeleton(node.anyOf[0], whole, seen) if node.anyOf else "null"
        return str(node.enum[0]) if node.enum else inner
    if node.type == "array":
        return "[" + ", ".join(_skeleton(item, whole, seen) for item in [*node.prefix, node.rest][:1]) + "]"
    if node.type == "object":
        names = islice(node.properties if whole else node.required, MAX_NODES)
        return "{" + ", ".join(f'"{name}": {_skeleton(node.properties[name], whole, seen)}' for name in names) + "}"
    return (
        '"' + "x" * min(max(1, node.minLength or 0), MAX_NODES) + '"' if node.type == "string" else _NUMBERS[node.type]
    )


def _usual() -> Iterator[tuple[dict[str, Any], str]]:
    values: list[tuple[dict[str, Any], str]] = [({"type": kind}, t) for kind, texts in _TEXTS.items() for t in texts]
    lists: list[tuple[dict[str, Any], str]] = [
        ({"type": "array", "items": schema}, f"[{text}, {text}]") for schema, text in values
    ]
    for value in values:
        for inner in _objects(*value):
            yield from _objects(*inner)
    for value in [*values, *lists, ({"type": "object"}, "{}"), ({}, "1")]:
        yield from _objects(*value)


def _objects(value: dict[str, Any], text: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Objects that hold a value, behind which: another property may follow, must follow, cannot follow."""
    two = {"type": "object", "properties": {"a": value, "b": {"type": "null"}}}
    whole = f'{{"a": {text}, "b": null}}'
    yield two, whole
    yield {**two, "required": ["b"]}, whole
    yield {"type": "object", "properties": {"a": value}}, f'{{"a": {text}}}'
