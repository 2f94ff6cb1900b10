"""What the constraint has done since the start, for metrics: numbers that another process may read as they grow."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np

NAMES = {
    "hits": "Plans and automata that were there already",
    "compiles": "Plans and automata made",
    "compile_seconds": "Time spent making them",
    "refusals": "Times that a schema was refused",
    "masks": "Masks written",
    "mask_seconds": "Time spent writing masks, what had to be worked out included",
    "worked_out": "Masks that had to be worked out",
    "cached_bytes": "About what plans and automata take now",
}
"""Totals, but for the last. Threads may lose a count to each other: nothing depends on them."""
PLACE = {name: place for place, name in enumerate(NAMES)}
SIZE = 8 * len(NAMES)


class Figures:
    """The numbers of one constraint.

    Args:
        path: a file of ``SIZE`` bytes to keep them in, where another process reads them; None: only here.

    Raises:
        OSError: the file cannot be mapped.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.values = np.zeros(len(NAMES)) if path is None else np.frombuffer(_mapped(path), np.float64)

    def add(self, name: str, by: float = 1) -> None:
        self.values[PLACE[name]] += by

    def set(self, name: str, value: float) -> None:
        self.values[PLACE[name]] = value

    def read(self) -> dict[str, float]:
        return dict(zip(NAMES, self.values.tolist(), strict=True))


def _mapped(path: Path) -> mmap.mmap:
    file = os.open(path, os.O_RDWR)
    try:
        return mmap.mmap(file, SIZE)
    finally:
        os.close(file)
