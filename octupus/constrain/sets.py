"""Sets of tokens: a few as ids, many as a packed mask. Equal masks are one array, and equal positions share a set."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Hashable, Iterable

import numpy as np

from octupus.constrain.figures import Figures
from octupus.constrain.vocabulary import Mask, Trie, Vocabulary

FEW = 40
"""So many ids are written one by one faster than a whole mask is copied."""
MAX_SHARED = 4096
"""Sets kept for positions that do not depend on any schema's names."""
MAX_SHAPES = 65_536


class Allowed:
    """A set of tokens that never changes."""

    __slots__ = ("_bits", "_mask", "_vocabulary", "_words", "ids")

    def __init__(self, vocabulary: Vocabulary, ids: tuple[int, ...] | None, mask: Mask | None) -> None:
        self._vocabulary, self.ids, self._mask = vocabulary, ids, mask
        words: dict[int, int] = {}
        for id in ids or ():
            words[id >> 5] = words.get(id >> 5, 0) | 1 << (id & 31)
        self._words = np.array(list(words), np.intp)
        self._bits = np.array(list(words.values()), np.uint32).view(np.int32)

    @property
    def nbytes(self) -> int:
        return 16 * len(self._words) + 400 + (0 if self._mask is None else self._mask.nbytes)

    def mask(self) -> Mask:
        """As a packed mask; read-only."""
        return self._vocabulary.pack(self.ids or ()) if self._mask is None else self._mask

    def fill(self, row: Mask) -> None:
        """Write into a row of at least ``Vocabulary.words`` words; the rest is cleared."""
        mask = self._mask
        if mask is None:
            row.fill(0)
            row[self._words] = self._bits
        elif len(row) == len(mask):
            row[:] = mask
        else:
            row[: len(mask)] = mask
            row[len(mask) :] = 0


class Shared:
    """What all schemas have in common on one vocabulary. Thread-safe.

    Args:
        figures: where to count the masks that had to be worked out.
    """

    def __init__(self, vocabulary: Vocabulary, figures: Figures | None = None) -> None:
        self.vocabulary, self.figures = vocabulary, figures or Figures()
        self.empty = Allowed(vocabulary, (), None)
        self._sets: dict[Hashable, Allowed] = {}
        self._unions: dict[tuple[Allowed, ...], Allowed] = {}
        self._spelled: dict[tuple[str, Trie], tuple[int, ...]] = {}
        self._shapes: dict[Hashable, int] = {}
        self._numbers = itertools.count()
        self._known: weakref.WeakValueDictionary[int, Mask] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def shape(self, description: Hashable) -> int:
        """A number for a description; equal ones have the same (until so many were seen that all are forgotten)."""
        number = self._shapes.get(description)
        if number is None:
            with self._lock:
                if len(self._shapes) >= MAX_SHAPES:
                    self._shapes.clear()
                number = self._shapes.setdefault(description, next(self._numbers))
        return number

    def get(self, key: Hashable) -> Allowed | None:
        return self._sets.get(key)

    def put(self, key: Hashable, found: Allowed) -> None:
        with self._lock:
            if len(self._sets) >= MAX_SHARED:
                self._sets.clear()
            self._sets[key] = found

    def spelled(self, text: str, node: Trie) -> tuple[int, ...]:
        """The tokens below ``node`` of which the rest is a beginning of ``text``."""
        found = self._spelled.get((text, node))
        if found is None:
            ids: list[int] = []
            at: Trie | None = node
            for char in text:
                at = at.children.get(ord(char)) if at is not None else None
                ids += at.ids if at is not None else ()
            with self._lock:
                if len(self._spelled) >= MAX_SHAPES:
                    self._spelled.clear()
                found = self._spelled[text, node] = tuple(ids)
        return found

    def collect(self, ids: Iterable[int], masks: list[Mask]) -> Allowed:
        """The union of ids and masks."""
        unique = tuple(dict.fromkeys(ids))
        if not masks and len(unique) <= FEW:
            return Allowed(self.vocabulary, unique, None)
        union = np.bitwise_or.reduce([*masks, self.vocabulary.pack(unique)])
        return Allowed(self.vocabulary, None, self._intern(union))

    def union(self, sets: tuple[Allowed, ...]) -> Allowed:
        """The union of sets."""
        if len(sets) < 2:
            return sets[0] if sets else self.empty
        found = self._unions.get(sets)
        if found is None:
            ids = [id for part in sets for id in part.ids or ()]
            found = self.collect(ids, [part.mask() for part in sets if part.ids is None])
            with self._lock:
                if len(self._unions) >= MAX_SHARED:
                    self._unions.clear()
                self._unions[sets] = found
        return found

    def _intern(self, mask: Mask) -> Mask:
        mask.flags.writeable = False
        key = hash(mask.tobytes())
        with self._lock:
            known = self._known.setdefault(key, mask)
        return known if np.array_equal(known, mask) else mask
