"""Which rows of which source a stage trains on, and how often: a seeded, exact sample."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ingredient:
    """A source in a mixture: its rows' digests (uint64), its epochs, and a name that seeds its sample."""

    label: str
    epochs: float
    identities: NDArray[np.uint64]
    questions: NDArray[np.uint64]


@dataclass(frozen=True)
class Mixture:
    """``passes[p]`` is an int64 [n, 2] of (source, row): no row twice within a pass, so a packed row repeats none."""

    passes: tuple[NDArray[np.int64], ...]
    duplicates: tuple[int, ...]
    """By source: rows that an earlier source of the mixture also has."""
    held_out: tuple[int, ...]
    """By source: rows that open with a held-out question."""

    def unique(self) -> NDArray[np.int64]:
        """Every (source, row) that is used at all, once, sorted."""
        return np.unique(np.concatenate([*self.passes, np.zeros((0, 2), np.int64)]), axis=0)


def mix(ingredients: Sequence[Ingredient], held_out: NDArray[np.uint64], seed: int) -> Mixture:
    """Drop what the held-out set or an earlier source has, then take each source ``epochs`` times.

    A fraction is a sample without replacement, seeded by ``seed`` and the source's label, so that adding a source
    changes no other source's sample.
    """
    passes: list[list[NDArray[np.int64]]] = []
    duplicates, asked = [], []
    before = np.zeros(0, np.uint64)
    for index, part in enumerate(ingredients):
        leaked = np.isin(part.questions, held_out)
        known = np.isin(part.identities, before) & ~leaked
        before = np.concatenate([before, part.identities])
        duplicates.append(int(known.sum()))
        asked.append(int(leaked.sum()))
        rows = np.flatnonzero(~leaked & ~known)
        whole, fraction = divmod(part.epochs, 1)
        takes = [rows] * int(whole)
        some = round(fraction * len(rows))
        if some:
            takes.append(np.sort(_generator(seed, part.label).choice(rows, some, replace=False)))
        for number, take in enumerate(takes):
            if number == len(passes):
                passes.append([])
            passes[number].append(np.column_stack([np.full(len(take), index), take]))
    return Mixture(tuple(np.concatenate(p) for p in passes), tuple(duplicates), tuple(asked))


def shuffled(pairs: NDArray[np.int64], seed: int, number: int) -> NDArray[np.int64]:
    """A pass in a seeded order, so that packing does not put neighbours of a source together."""
    return pairs[_generator(seed, f"pass {number}").permutation(len(pairs))]


def _generator(seed: int, label: str) -> np.random.Generator:
    words = np.frombuffer(hashlib.sha256(label.encode()).digest()[:16], "<u4")
    return np.random.Generator(np.random.PCG64([seed, *words.tolist()]))
