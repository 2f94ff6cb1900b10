"""What nearly every schema comes to is worked out once, when the vocabulary is set up: positions inside values of
usual types, below objects that may end here or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from octupus.constrain.automaton import Automaton, State
from octupus.constrain.grammar import Grammar
from octupus.constrain.normal import Normal
from octupus.constrain.sets import Shared

_SCALARS = {"string": '"x"', "number": "-10.5e+10", "integer": "-10", "boolean": "true"}
_LISTS = {kind: f"[{text}, {text}]" for kind, text in _SCALARS.items()}


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


def _usual() -> Iterator[tuple[dict[str, Any], str]]:
    values: list[tuple[dict[str, Any], str]] = [({"type": kind}, text) for kind, text in _SCALARS.items()]
    lists: list[tuple[dict[str, Any], str]] = [
        ({"type": "array", "items": {"type": kind}}, text) for kind, text in _LISTS.items()
    ]
    for value in values:
        for inner in _objects(*value):
            yield from _objects(*inner)
    for value in [*values, *lists, ({"type": "object"}, "{}")]:
        yield from _objects(*value)


def _objects(value: dict[str, Any], text: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Objects that hold a value, behind which: another property may follow, must follow, cannot follow."""
    two = {"type": "object", "properties": {"a": value, "b": {"type": "null"}}}
    whole = f'{{"a": {text}, "b": null}}'
    yield two, whole
    yield {**two, "required": ["b"]}, whole
    yield {"type": "object", "properties": {"a": value}}, f'{{"a": {text}}}'
