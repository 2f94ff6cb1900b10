"""Schemas in normal form, in the shape that lm-format-enforcer's ``get_parser`` reads.

It only looks at attributes, so that nodes may be filled in late, shared and cyclic where its own model is a tree. All
text in nodes is JSON text as UTF-8 bytes, one character a byte (latin-1): the grammar works on bytes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

from octupus.constrain.logic import Mark
from octupus.constrain.schema import Location
from octupus.errors import ConstraintError

ANY_KEY = "\0"
"""Stands among the keys of an object that takes undeclared ones; no JSON text holds this character."""


def as_bytes(text: str) -> str:
    """Text as its UTF-8 bytes, one character each."""
    try:
        return text.encode().decode("latin-1")
    except UnicodeEncodeError as error:
        raise ConstraintError(f"a lone surrogate cannot be generated: {text!r}") from error


class Excluding(list[str]):
    """Empty, so that a string is free; ``texts`` are the strings that it must not be."""

    def __init__(self, texts: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.texts = texts


class Literal(float):
    """A JSON text. lm-format-enforcer writes the members of a numeric enum with ``str`` and takes each as it is."""

    text: str

    def __new__(cls, text: str) -> Literal:
        made = super().__new__(cls, 0.0)
        made.text = text
        return made

    def __str__(self) -> str:
        return self.text


class Properties(dict[str, "Node"]):
    """Declared properties; ``additional`` is what any other may hold (None: no other may stand)."""

    additional: Node | None = None

    def keys(self) -> Any:
        return super().keys() if self.additional is None else {**self, ANY_KEY: self.additional}.keys()

    def __missing__(self, name: str) -> Node:
        assert self.additional is not None, name
        return self.additional


class Node:
    """A schema in normal form. Upper half: what lm-format-enforcer reads; lower half: what its grammar cannot say."""

    allOf: tuple[Node, ...] = ()
    oneOf: tuple[Node, ...] = ()
    ref: str | None = None
    pattern: str | None = None
    extras: None = None
    additionalProperties: Node | None = None
    properties = Properties()
    """Of what is no object: none."""

    def __init__(self, type: str | None = None) -> None:
        self.type = type
        self.anyOf: Sequence[Node] = ()
        self.enum: Sequence[Any] = ()
        self.minLength: int | None = None
        self.maxLength: int | None = None
        self.minItems: int | None = None
        self.maxItems: int | None = None
        if type == "object":
            self.properties = Properties()
        self.required: Sequence[str] = ()

        self.prefix: Sequence[Node] = ()
        self.rest: Node | None = None
        """Of an array: its items behind ``prefix``."""
        self.forbidden: frozenset[str] = frozenset()
        """Names that no undeclared property may have."""
        self.min_properties = 0
        self.max_properties: int | None = None
        self.patterns: dict[str, Node] = {}
        """What undeclared properties hold whose names match."""
        self.parts: tuple[Location, ...] = ()
        """Where this node comes from."""
        self.shape: tuple[Hashable] | None = None
        """Of an array: its items' shape, once it has been asked for."""
        self.marks: frozenset[Mark] = frozenset()
        """What this node leaves out."""

    @property
    def items(self) -> Node | None:
        """Of an array: itself, so that its parser state leads back here."""
        return self if self.type == "array" else None


def literals(texts: Iterable[str]) -> Node:
    """The node of these texts and no others."""
    node = Node()
    node.enum = [Literal(text) for text in sorted({as_bytes(text) for text in texts})]
    return node


def prune(node: Node, productive: set[Node]) -> None:
    """Take out what no finite value satisfies: the grammar would lead into it and find no end."""
    node.anyOf = [a for a in node.anyOf if a in productive]
    for name in [n for n, p in node.properties.items() if p not in productive]:
        del node.properties[name]
    if node.properties.additional not in productive:
        node.properties.additional = None
    if node.type == "array":
        items = [*node.prefix, node.rest]
        most = next((i for i, item in enumerate(items) if item not in productive), None)
        if most is not None:
            node.maxItems = most if node.maxItems is None else min(most, node.maxItems)


def absorbed(nodes: list[Node]) -> Iterator[Node]:
    """Without alternatives that another one says already: any string, any number, the same literals."""
    free = {n.type for n in nodes if n.type in ("string", "number") and _is_free(n)}
    seen = set()
    for node in nodes:
        key = tuple(literal.text for literal in node.enum) if node.type is None else id(node)
        said = (node.type == "integer" and "number" in free) or (node.type in free and not _is_free(node))
        if not said and key not in seen:
            seen.add(key)
            yield node
            if node.type in free:
                seen.update(id(n) for n in nodes if n.type == node.type)


def _is_free(node: Node) -> bool:
    texts = node.enum.texts if isinstance(node.enum, Excluding) else ()
    return not (node.minLength or node.maxLength is not None or texts or node.marks)
