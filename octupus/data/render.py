"""Stored conversations to token documents, in chunks, in parallel; a finished chunk is never made again."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octupus.data.pack import pack
from octupus.data.shards import Shards, ShardWriter
from octupus.data.store import Store
from octupus.errors import WireError
from octupus.tokenizer import load_wire
from octupus.wire import Wire

CHUNK = 1024
"""Conversations a chunk."""


@dataclass(frozen=True)
class Renderer:
    """Everything a worker process needs, as plain values."""

    model: Path
    dialect: str
    system: str | None
    context: int
    sources: tuple[tuple[Path, str], ...]
    """Folder and inputs' hash of every source's store, by number."""
    out: Path

    def chunk(self, number: int, pairs: NDArray[np.int64]) -> Path:
        """Render the (source, row) pairs of a chunk into documents: a shard folder with one document a row."""
        folder = self.out / f"{number:06d}"
        if (folder / "manifest.json").is_file():
            return folder
        wire = _wire(self.model, self.dialect, self.system)
        kept: list[int] = []
        dropped: list[tuple[int, str]] = []
        with ShardWriter(folder) as writer:
            for at, (source, row) in enumerate(pairs.tolist()):
                try:
                    done = wire.render(_store(*self.sources[source]).conversation(row))
                except WireError as error:
                    dropped.append((at, f"not renderable: {error}"))
                    continue
                if len(done.ids) > self.context:
                    dropped.append((at, f"longer than the context: {len(done.ids)} > {self.context} tokens"))
                    continue
                writer.add(done.ids, done.mask)
                kept.append(at)
            writer.publish(fingerprint=wire.fingerprint, details={"kept": kept, "dropped": dropped})
        return folder


@cache
def _wire(model: Path, dialect: str, system: str | None) -> Wire:
    return load_wire(model, dialect, system)[0]


@cache
def _store(folder: Path, inputs: str) -> Store:
    found = Store.find(folder, inputs)
    assert found is not None, "only finished stores are rendered"
    return found


class Documents:
    """Rendered documents, still in their chunks.

    ``tokens[i]`` (int64) of document i, ``pairs[i]`` its (source, row), ascending; ``dropped`` holds (source, row,
    reason) of conversations that made none.
    """

    def __init__(self, folders: Sequence[Path], pairs: NDArray[np.int64]) -> None:
        self._chunks = [Shards(folder) for folder in folders]
        kept: list[int] = []
        place: list[tuple[int, int]] = []
        self.dropped: list[tuple[int, int, str]] = []
        for number, chunk in enumerate(self._chunks):
            details, first = chunk.manifest.details, number * CHUNK
            kept += [first + at for at in details["kept"]]
            place += [(number, row) for row in range(len(chunk))]
            self.dropped += [(*pairs[first + at].tolist(), reason) for at, reason in details["dropped"]]
        self._place = np.array(place, np.int64).reshape(-1, 2)
        self.pairs = pairs[kept]
        self.tokens = np.concatenate([np.zeros(0, np.int64), *(c.row_tokens for c in self._chunks)])

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, document: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Ids and mask, as views."""
        chunk, row = self._place[document].tolist()
        found = self._chunks[chunk][row]
        return found.ids, found.mask

    def find(self, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
        """The documents of (source, row) pairs, in the order of the pairs; pairs that made none are passed over."""
        stride = np.array([1 + max(p[:, 1].max(initial=0) for p in (self.pairs, pairs)), 1])
        keys, wanted = self.pairs @ stride, pairs @ stride
        at = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
        return at[keys[at] == wanted] if len(keys) else at[:0]

    def write_packed(self, chosen: NDArray[np.int64], context: int, writer: ShardWriter) -> None:
        """Pack the chosen documents and append the rows."""
        order, bounds = pack(self.tokens[chosen], context)
        for first, end in pairwise(bounds.tolist()):
            parts = [self[d] for d in chosen[order[first:end]].tolist()]
            starts = np.cumsum([0, *(len(ids) for ids, _ in parts[:-1])])
            writer.add(np.concatenate([i for i, _ in parts]), np.concatenate([m for _, m in parts]), starts)


def render_all(renderer: Renderer, pairs: NDArray[np.int64], workers: int) -> Iterator[tuple[int, Path]]:
    """Render every pair; yields (conversations in the chunk, its folder) in order, as they get done."""
    parts = [pairs[i : i + CHUNK] for i in range(0, len(pairs), CHUNK)]
    if workers < 2 or len(parts) < 2 * workers:
        for number, part in enumerate(parts):
            yield len(part), renderer.chunk(number, part)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_die_with, initargs=(os.getpid(),)) as pool:
        folders = pool.map(renderer.chunk, range(len(parts)), parts)
        yield from zip(map(len, parts), folders, strict=True)


def _die_with(parent: int) -> None:
    """A worker whose build was killed must not go on writing into the folders of the next one."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
