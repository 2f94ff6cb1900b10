"""Packed rows to batches: which rows a rank sees at a step is a pure function, so that resuming needs no state.

The convention for labels (what the training loop must know)
-----------------------------------------------------------
A micro-batch is ONE sequence: its rows are laid end to end, all arrays are [1, T] int64, nothing is padded.
``labels`` are ALREADY SHIFTED: ``labels[0, t]`` is the token that the model must predict at position t, that is
``input_ids[0, t + 1]`` where that token is supervised and belongs to the same document, else ``IGNORE`` (-100). So
``cross_entropy(logits[0], labels[0], ignore_index=IGNORE, reduction="sum")`` needs no further shift (with a Hugging
Face model: pass ``shift_labels``, or compute the loss outside; never ``labels``, which it would shift once more).
``position_ids`` begin at 0 in every document; ``bounds`` are the cumulative document lengths (``cu_seqlens``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from octupus.data.shards import PackedRow, Shards

IGNORE = -100


@dataclass(frozen=True)
class Batch:
    """One micro-batch; see the module for the convention."""

    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    bounds: NDArray[np.int32]
    """[documents + 1], from 0 to T."""
    supervised: int
    """Labels that are not IGNORE; the loss is summed and divided by their number over all ranks and micro-batches."""


def collate(rows: Sequence[PackedRow]) -> Batch:
    """Lay rows end to end; see the module for shapes and the label convention."""
    ids = np.concatenate([r.ids for r in rows]).astype(np.int64)
    mask = np.concatenate([r.mask for r in rows])
    offsets = np.cumsum([0, *(len(r.ids) for r in rows)])
    starts = np.concatenate([r.starts + offset for r, offset in zip(rows, offsets[:-1], strict=True)])
    bounds = np.append(starts, len(ids)).astype(np.int32)
    labels = np.full(len(ids), IGNORE, np.int64)
    labels[:-1][mask[1:]] = ids[1:][mask[1:]]
    labels[bounds[1:] - 1] = IGNORE  # the last position of a document predicts nothing: what follows is another one
    positions = np.arange(len(ids)) - np.repeat(starts, np.diff(bounds))
    supervised = int((labels != IGNORE).sum())
    return Batch(ids[None], labels[None], positions[None], bounds, supervised)


@lru_cache(maxsize=4)
def order(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    """The order of ``n`` rows in an epoch; the same on every machine and at every world size."""
    permutation = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(n)
    permutation.setflags(write=False)
    return permutation


class Batches:
    """The micro-batches of one rank.

    Rows are dealt from an endless sequence: epoch 0 in its order, then epoch 1 and so on. Step s takes the
    ``micro_batch * world * accumulation`` rows from ``s`` times that on, so a step holds the same rows at every world
    size with the same product. ``steps`` is rounded up: a last step that is not full goes on into the next epoch.
    """

    def __init__(
        self,
        shards: Shards | Sequence[PackedRow],
        rank: int,
        world: int,
        micro_batch: int,
        accumulation: int,
        seed: int,
        epochs: float,
    ) -> None:
        self.shards, self.rank, self.world = shards, rank, world
        self.micro_batch, self.accumulation, self.seed, self.epochs = micro_batch, accumulation, seed, epochs

    @property
    def global_batch(self) -> int:
        """Packed rows of one optimizer step, over all ranks."""
        return self.micro_batch * self.world * self.accumulation

    @property
    def steps(self) -> int:
        return math.ceil(self.epochs * len(self.shards) / self.global_batch)

    def rows(self, step: int) -> list[list[int]]:
        """Indices of this rank's rows at ``step``: one list a micro-batch."""
        found = []
        for turn in range(self.accumulation):
            first = step * self.global_batch + (turn * self.world + self.rank) * self.micro_batch
            found.append([self._deal(first + i) for i in range(self.micro_batch)])
        return found

    def _deal(self, place: int) -> int:
        epoch, at = divmod(place, len(self.shards))
        return int(order(self.seed, epoch, len(self.shards))[at])

    def at(self, step: int) -> list[Batch]:
        """This rank's ``accumulation`` micro-batches at ``step`` (from 0)."""
        return [collate([self.shards[i] for i in rows]) for rows in self.rows(step)]
