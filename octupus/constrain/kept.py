"""What was made and may be asked for again: bounded in number and in bytes, the least recently used goes first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")
RECOUNT = 64
"""After so many new ones all are counted again: what was made grows as it is used."""


class Kept(Generic[Value]):
    """Values by key. Thread-safe; what is missing is made outside the lock, so that others go on meanwhile.

    Args:
        most: so many values at most.
        most_bytes: so many bytes at most, as ``size`` counts them; the newest value stays whatever its size.
        drop: what is done with a value that has to go.
    """

    def __init__(
        self,
        most: int,
        most_bytes: int,
        size: Callable[[Value], int],
        drop: Callable[[Value], None] = lambda value: None,
    ) -> None:
        self._most, self._most_bytes, self._size, self._drop = most, most_bytes, size, drop
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._made = self.bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable) -> Value | None:
        with self._lock:
            found = self._values.get(key)
            return None if found is None else self._count(key, found[0])

    def put(self, key: Hashable, value: Value) -> Value:
        """The value to go on with: another one, where somebody else was quicker; then this one is dropped."""
        kept, gone = self._put(key, value)
        for one in gone:
            self._drop(one)
        return kept

    def _put(self, key: Hashable, value: Value) -> tuple[Value, list[Value]]:
        """What is kept, and what has to go for it."""
        gone: list[Value] = []
        with self._lock:
            found = self._values.get(key)
            if found is not None:
                return self._count(key, found[0]), [value]
            self._count(key, value)
            self._made += 1
            if self._made % RECOUNT == 0:
                for known, (used, _) in list(self._values.items()):
                    self._count(known, used)
            while len(self._values) > 1 and (len(self._values) > self._most or self.bytes > self._most_bytes):
                _, (oldest, size) = self._values.popitem(last=False)
                self.bytes -= size
                gone.append(oldest)
        return value, gone

    def _count(self, key: Hashable, value: Value) -> Value:
        """What a value takes now; it is the one used last."""
        _, before = self._values.pop(key, (value, 0))
        self._values[key] = value, self._size(value)
        self.bytes += self._values[key][1] - before
        return value
