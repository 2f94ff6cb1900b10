"""Near duplicates: MinHash signatures (rensa) over runs of words, on disk, compared band by band. Bounded memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from octupus.wire.messages import Conversation

SLOTS, BANDS = 128, 16
"""Rows that share 80% of their runs meet in a band with probability 0.95, those that share 90% with 0.9999."""
RUN = 5
"""Words of a run; a Chinese character is a word."""
BLOCK = 1 << 15
"""Signatures that are in memory at once."""
LEADERS = 32
"""Rows of a bucket that the others are compared with, at most."""
SEED = 1
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")
_ODD = np.random.default_rng(SEED).integers(0, 1 << 63, SLOTS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def words(conversation: Conversation) -> list[str]:
    """Everything that is said and called, in order, in lower case; not the tools, which many rows share."""
    said = []
    for message in conversation.messages:
        said.append(message.content)
        said += [f"{call.name} {call.arguments_text}" for call in message.tool_calls]
    return _WORD.findall("\n".join(said).lower())


def signatures(texts: Sequence[Sequence[str]]) -> NDArray[np.uint32]:
    """MinHash signatures, uint32 [len(texts), SLOTS]; the share of equal slots estimates the Jaccard similarity."""
    if not texts:
        return np.zeros((0, SLOTS), np.uint32)
    runs = [_runs(np.array(hashed, np.uint64)) for hashed in RMinHash.hash_token_sets([t or [""] for t in texts])]
    offsets = np.cumsum([0, *map(len, runs)]).astype(np.uint64)
    digests = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(runs), offsets, SLOTS, SEED)
    return np.array(digests.to_rows(), np.uint32)


def _runs(hashed: NDArray[np.uint64]) -> NDArray[np.uint64]:
    n = max(1, len(hashed) - RUN + 1)
    found = np.zeros(n, np.uint64)
    for place in range(min(RUN, len(hashed))):
        found = (found + hashed[place : place + n]) * _ODD[place]
    return found


class NearDuplicates:
    """The signatures of several sources, one file each, as one sequence."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self.sizes = [file.stat().st_size // (4 * SLOTS) for file in files]
        self.starts = np.cumsum([0, *self.sizes])

    def find(self, threshold: float) -> NDArray[np.int64]:
        """For each row the earlier row that it nearly equals, or -1. A row that is itself dropped leads no others."""
        twin = np.full(int(self.starts[-1]), -1, np.int64)
        for band in range(BANDS):
            keys = self._keys(band)
            order = np.argsort(keys, kind="stable")
            same = np.concatenate([[False], keys[order][1:] == keys[order][:-1], [False]])
            begins = np.flatnonzero(~same[:-1] & same[1:])
            ends = np.flatnonzero(same[:-1] & ~same[1:]) + 1
            for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
                self._compare(order[begin:end], twin, threshold)
        return twin

    def _keys(self, band: int) -> NDArray[np.uint64]:
        width = SLOTS // BANDS
        columns = slice(band * width, (band + 1) * width)
        parts = [(block[:, columns] * _ODD[:width]).sum(axis=1, dtype=np.uint64) for block in self._blocks()]
        return np.concatenate([np.zeros(0, np.uint64), *parts])

    def _blocks(self) -> Iterator[NDArray[np.uint32]]:
        for file in self.files:
            with file.open("rb") as stream:
                while (block := np.fromfile(stream, "<u4", BLOCK * SLOTS)).size:
                    yield block.reshape(-1, SLOTS)

    def _compare(self, rows: NDArray[np.int64], twin: NDArray[np.int64], threshold: float) -> None:
        rows = rows[twin[rows] < 0]
        if len(rows) < 2:
            return
        seen = self._read(rows)
        for _ in range(LEADERS):
            alike = (seen[1:] == seen[0]).mean(axis=1) >= threshold
            twin[rows[1:][alike]] = rows[0]
            rows, seen = rows[1:][~alike], seen[1:][~alike]
            if len(rows) < 2:
                return

    def _read(self, rows: NDArray[np.int64]) -> NDArray[np.uint32]:
        found = np.empty((len(rows), SLOTS), np.uint32)
        source = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(source).tolist():
            places = np.flatnonzero(source == number)
            with self.files[number].open("rb") as stream:
                for place in places.tolist():
                    stream.seek(4 * SLOTS * int(rows[place] - self.starts[number]))
                    found[place] = np.fromfile(stream, "<u4", SLOTS)
        return found
