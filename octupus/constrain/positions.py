"""Where a text of an answer stands: free text, one of several texts, a text whose beginning says how it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Protocol

import numpy as np

from octupus.constrain.vocabulary import Mask, Vocabulary, utf8_after


class Position(Protocol):
    """Where a text stands. Positions are values: advancing makes another one."""

    @property
    def ended(self) -> bool: ...

    def fill(self, row: Mask) -> None: ...

    def mask(self) -> Mask: ...

    def advance(self, token: int) -> Position | None: ...

    def forced(self) -> tuple[bytes, bool]:
        """The text that must come next, and whether nothing but a special token may follow it."""
        ...


class FreeText:
    """Content that is no JSON: any text tokens, so long as no character is broken."""

    __slots__ = ("_last", "_vocabulary", "ended", "length", "utf8")

    def __init__(self, vocabulary: Vocabulary, length: int = 0, utf8: int = 0, last: bytes = b"") -> None:
        self._vocabulary, self.length, self.utf8, self._last = vocabulary, length, utf8, last
        self.ended = length > 0 and utf8 == 0

    def fill(self, row: Mask) -> None:
        row[: self._vocabulary.words] = self.mask()
        row[self._vocabulary.words :] = 0

    def mask(self) -> Mask:
        return self._vocabulary.text(self.utf8)

    def advance(self, token: int) -> FreeText | None:
        data = self._vocabulary.tokens[token] if 0 <= token < self._vocabulary.size else None
        utf8 = -1 if data is None else utf8_after(self.utf8, data)
        if data is None or utf8 < 0:
            return None
        return FreeText(self._vocabulary, self.length + len(data), utf8, (self._last + data)[-16:])

    def forced(self) -> tuple[bytes, bool]:
        return b"", False

    def ends_with(self, text: bytes) -> bool:
        """Whether something stands before ``text``, and ``text`` last."""
        return self.ended and self.length > len(text) and self._last.endswith(text)


class Several:
    """One of several texts, not yet known which."""

    __slots__ = ("_positions",)

    def __init__(self, positions: Sequence[Position]) -> None:
        self._positions = positions

    @property
    def ended(self) -> bool:
        return any(position.ended for position in self._positions)

    def fill(self, row: Mask) -> None:
        mask = self.mask()
        row[: len(mask)] = mask
        row[len(mask) :] = 0

    def mask(self) -> Mask:
        mask: Mask = np.bitwise_or.reduce([position.mask() for position in self._positions])
        return mask

    def advance(self, token: int) -> Position | None:
        after = [p for position in self._positions if (p := position.advance(token)) is not None]
        return None if not after else after[0] if len(after) == 1 else Several(after)

    def forced(self) -> tuple[bytes, bool]:
        texts = [position.forced()[0] for position in self._positions]
        same = takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False))
        return bytes(column[0] for column in same), False


class Headed:
    """One of several texts that their heads tell apart; a text is made when a token could reach into it, not before.

    Of 256 functions one is called: the others' schemas need not be compiled.

    Args:
        heads: a position in the heads, each of them as a text.
        bodies: for each head what makes its text, from what is left of the head then.
    """

    __slots__ = ("_bodies", "_heads", "_vocabulary", "_written")

    ended = False

    def __init__(
        self,
        vocabulary: Vocabulary,
        heads: Position,
        bodies: Mapping[bytes, Callable[[bytes], Position]],
        written: bytes = b"",
    ) -> None:
        self._vocabulary, self._heads, self._bodies, self._written = vocabulary, heads, bodies, written

    def fill(self, row: Mask) -> None:
        self._heads.fill(row)

    def mask(self) -> Mask:
        return self._heads.mask()

    def advance(self, token: int) -> Position | None:
        heads = self._heads.advance(token)
        if heads is None:
            return None
        written = self._written + (self._vocabulary.tokens[token] or b"")
        bodies = {head: body for head, body in self._bodies.items() if head.startswith(written)}
        return Headed(self._vocabulary, heads, bodies, written).resolved()

    def forced(self) -> tuple[bytes, bool]:
        return self._heads.forced()[0], False

    def resolved(self) -> Position:
        """This, or the texts from here on, where a token could write all that is left of a head, and more."""
        rests = {head: head[len(self._written) :] for head in self._bodies}
        if not any(_near(self._vocabulary, rest) for rest in rests.values()):
            return self
        positions = [self._bodies[head](rest) for head, rest in rests.items()]
        return positions[0] if len(positions) == 1 else Several(positions)


def likely_rest(vocabulary: Vocabulary, head: bytes) -> bytes:
    """What is left of ``head`` when its text is made, where the tokenizer's own tokens write it."""
    for id in vocabulary.spelling(head, ends=True):
        if _near(vocabulary, head):
            break
        head = head[len(vocabulary.tokens[id] or b"") :]
    return head


def _near(vocabulary: Vocabulary, rest: bytes) -> bool:
    """Whether a token could write all of ``rest``; or could from within a character on, where no text can be made."""
    inside = (place for place, byte in enumerate(rest) if byte & 0xC0 == 0x80)
    return vocabulary.begins(rest) or any(vocabulary.begins(rest[place:]) for place in inside)
