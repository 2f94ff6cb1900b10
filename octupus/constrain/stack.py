"""Positions in a grammar: a stack of lm-format-enforcer's parser states, and where inside the topmost one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

from octupus.constrain.parsers import CharacterLevelParser, CharacterLevelParserConfig, JsonSchemaParser

Lex = Any
"""Where a branch stands inside its topmost state. A number: before the state's first byte, that many blanks seen (in a
fixed text, the place). Else a TextLex, a NumberLex, what there is of a literal or key, SPACE, or a closed key."""


class Frame:
    """One parser state on a stack. Frames are interned: equal stacks are the same frame."""

    __slots__ = ("below", "kind", "shape", "state", "texts")

    def __init__(self, below: Frame | None, kind: str, state: Any, shape: int | None) -> None:
        self.below, self.kind, self.state = below, kind, state
        self.shape = shape
        """Equal for stacks of any schema that allow the same tokens; None where that depends on the schema's names."""
        self.texts: Sequence[str] = ()
        """Of literals and declared keys: what may stand here, sorted. Of strings and free keys: what may not."""
        if kind in ("literal", "key"):
            self.texts = sorted(state.allowed_strings)
        elif kind == "string":
            self.texts = sorted(state.allowed_strings.texts)


class Branch:
    """A position: a stack and where inside its topmost state. Interned, so that identity is equality."""

    __slots__ = ("allowed", "lex", "moves", "number", "tokens", "top")

    def __init__(self, top: Frame | None, lex: Lex, number: int) -> None:
        self.top, self.lex, self.number = top, lex, number
        self.allowed: frozenset[int] | None = None
        self.moves: dict[int, tuple[Branch, ...]] = {}
        self.tokens: Any = None


class Cursor(JsonSchemaParser):
    """What parser states know of the parser that they belong to: the stack, on which they push, and the last key."""

    def __init__(self) -> None:
        self._config = CharacterLevelParserConfig(alphabet="", max_json_array_length=0)
        self.object_stack: list[CharacterLevelParser] = []
        self.last_parsed_string = ""

    @property
    def context(self) -> Any:  # type: ignore[override]
        """Where states look for ``active_parser``: both are this, without a circle of references."""
        return self

    @property
    def active_parser(self) -> Cursor:
        return self


def with_prefix(texts: Sequence[str], prefix: str) -> Iterator[str]:
    """Of sorted texts those that begin so."""
    at = bisect_left(texts, prefix)
    while at < len(texts) and texts[at].startswith(prefix):
        yield texts[at]
        at += 1


def holds(texts: Sequence[str], text: str) -> bool:
    """Whether sorted texts hold this one."""
    at = bisect_left(texts, text)
    return at < len(texts) and texts[at] == text
