"""What nearly every schema comes to is worked out once, when the vocabulary is set up: positions inside values of
usual types, below objects that may end here or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from octupus.constrain.automaton import Automaton, State
from octupus.constrain.grammar import Grammar
from octupus.constrain.nodes import Node
from octupus.constrain.normal import Normal
from octupus.constrain.sets import Shared
from octupus.constrain.vocabulary import Vocabulary

MAX_REHEARSED, MAX_NESTED = 2_000, 4
"""Characters of a rehearsed answer, and how deep it goes."""
_NUMBERS = {"integer": "10", "number": "10.5"}
_TEXTS = {"string": ['"x"'], "number": ["-10.5e+10", "1.5", "0.5"], "integer": ["-10", "0"], "boolean": ["true"]}


def prepare(shared: Shared) -> None:
    """Fill the shared sets of tokens along texts of some usual schemas."""
    for schema, text in _usual():
        automaton = Automaton(Grammar(Normal(schema, arguments=True).root, "", "", shared, any_space=False), shared)
        state: State | None = automaton.start
        for byte in text.encode():
            assert state is not None
            state.mask()
            state = automaton.step(state, byte)
        assert state is not None and state.ended


def rehearse(automaton: Automaton, vocabulary: Vocabulary, node: Node, head: str, tail: str) -> None:
    """Go through two answers that a model may well give: with all properties, and with those required."""
    for whole in (True, False):
        text = head + _skeleton(node, whole, MAX_NESTED) + tail
        if vocabulary.encode is None or len(text) > MAX_REHEARSED:
            return
        state: State | None = automaton.start
        for token in vocabulary.encode(text.encode("latin-1").decode()):
            assert state is not None
            state.mask()
            state = state.advance(token)
            if state is None:
                break


def _skeleton(node: Node | None, whole: bool, depth: int) -> str:
    """A short value of ``node``, as text; where it cannot be short, its beginning is right."""
    if node is None or node.type is None:
        inner = node.enum[0].text if node and node.enum else None
        return inner or (_skeleton(node.anyOf[0], whole, depth) if node and node.anyOf and depth else "null")
    if node.type == "array":
        items = [*node.prefix, node.rest][: max(1, node.minItems or 0)]
        return "[" + ", ".join(_skeleton(item, whole, depth - 1) for item in items if depth) + "]"
    if node.type == "object":
        names = dict.keys(node.properties) if whole else node.required
        fields = (f'"{name}": {_skeleton(node.properties[name], whole, depth - 1)}' for name in names if depth)
        return "{" + ", ".join(fields) + "}"
    return '"' + "x" * max(1, node.minLength or 0) + '"' if node.type == "string" else _NUMBERS[node.type]


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
