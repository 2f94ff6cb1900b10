"""Which rows of which source a stage trains on, and how often: a seeded, exact sample.

A row of a mixture is one int64, its KEY: source, variant and row number (see :func:`parts`). The variant tells one pass
over a row from another where passes differ (augment.py); else it is 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROW, _VARIANT = 40, 10
"""Bits of a key: row number, variant; the source has the rest."""
Keys = NDArray[np.int64]


def keys_of(source: int, variant: int, rows: NDArray[np.int64]) -> Keys:
    return rows + (((source << _VARIANT) + variant) << _ROW)


def parts(keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(sources, variants, rows) of keys; keys ascend in this order."""
    head = keys >> _ROW
    return head >> _VARIANT, head & ((1 << _VARIANT) - 1), keys & ((1 << _ROW) - 1)


@dataclass(frozen=True)
class Ingredient:
    """A source in a mixture: its rows' digests (uint64), its epochs, and a name that seeds its sample."""

    label: str
    epochs: float
    identities: NDArray[np.uint64]
    questions: NDArray[np.uint64]
    left_out: NDArray[np.bool_] | None = None
    """Rows that are not taken whatever else holds."""


@dataclass(frozen=True)
class Mixture:
    """``passes[p]`` holds keys: no row twice within a pass, so a packed row repeats none."""

    passes: tuple[Keys, ...]
    duplicates: tuple[int, ...]
    """By source: rows that an earlier source of the mixture also has."""
    held_out: tuple[int, ...]
    """By source: rows that open with a held-out question."""

    def unique(self) -> Keys:
        """Every key that is used at all, once, sorted."""
        return np.unique(np.concatenate([*self.passes, np.zeros(0, np.int64)]))


def mix(ingredients: Sequence[Ingredient], held_out: NDArray[np.uint64], seed: int, variants: bool = False) -> Mixture:
    """Drop what the held-out set or an earlier source has, then take each source ``epochs`` times.

    A fraction is a sample without replacement, seeded by ``seed`` and the source's label, so that adding a source
    changes no other source's sample. With ``variants`` each pass has its own.
    """
    passes: list[list[Keys]] = []
    duplicates, asked = [], []
    before = np.zeros(0, np.uint64)
    for index, part in enumerate(ingredients):
        leaked = np.isin(part.questions, held_out)
        known = np.isin(part.identities, before) & ~leaked
        before = np.concatenate([before, part.identities])
        duplicates.append(int(known.sum()))
        asked.append(int(leaked.sum()))
        out = leaked | known
        rows = np.flatnonzero(~(out if part.left_out is None else out | part.left_out))
        whole, fraction = divmod(part.epochs, 1)
        takes = [rows] * int(whole)
        some = round(fraction * len(rows))
        if some:
            takes.append(np.sort(_generator(seed, part.label).choice(rows, some, replace=False)))
        for number, take in enumerate(takes):
            if number == len(passes):
                passes.append([])
            passes[number].append(keys_of(index, number % (1 << _VARIANT) if variants else 0, take))
    return Mixture(tuple(np.concatenate(p) for p in passes), tuple(duplicates), tuple(asked))


def shuffled(keys: Keys, seed: int, number: int) -> Keys:
    """A pass in a seeded order, so that packing does not put neighbours of a source together."""
    return keys[_generator(seed, f"pass {number}").permutation(len(keys))]


def _generator(seed: int, label: str) -> np.random.Generator:
    words = np.frombuffer(hashlib.sha256(label.encode()).digest()[:16], "<u4")
    return np.random.Generator(np.random.PCG64([seed, *words.tolist()]))
