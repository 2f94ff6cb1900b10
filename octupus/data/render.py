"""Stored conversations to token documents, in chunks, in parallel; a finished chunk is never made again."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octupus.data.mix import Keys, parts
from octupus.data.pack import pack
from octupus.data.shards import ShardWriter, read_manifest
from octupus.data.store import Store
from octupus.data.workers import Workers
from octupus.errors import DataError, WireError
from octupus.tokenizer import load_wire
from octupus.wire import Conversation, Wire

CHUNK, CHUNKS = 1024, 256
"""Conversations a chunk, at least; chunks of a stage, at most: their files are all open while packing."""

Change = Callable[[Conversation, int, Store], Conversation]
"""What may happen to a conversation before it is rendered: (conversation, key, its store)."""


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
    change: Change | None = None

    def chunk(self, number: int, keys: Keys) -> Path:
        """Render the keys of a chunk into documents: a shard folder with one document a row."""
        folder = self.out / f"{number:06d}"
        if (folder / "manifest.json").is_file():
            return folder
        wire = _wire(self.model, self.dialect, self.system)
        kept: list[int] = []
        dropped: list[tuple[int, str]] = []
        ids, mask, ends = array("i"), bytearray(), array("q")  # one write a chunk: a write a row would cost a quarter
        with ShardWriter(folder) as writer:
            for at, (key, source, _, row) in enumerate(np.column_stack([keys, *parts(keys)]).tolist()):
                store = _store(*self.sources[source])
                try:
                    conversation = store.conversation(row)
                    if self.change is not None:
                        conversation = self.change(conversation, key, store)
                    done = wire.render(conversation)
                except WireError as error:
                    dropped.append((at, f"not renderable: {error}"))
                    continue
                if len(done.ids) > self.context:
                    dropped.append((at, f"longer than the context: {len(done.ids)} > {self.context} tokens"))
                    continue
                ids.extend(array("i", done.ids))
                mask.extend(done.mask)
                ends.append(len(ids))
                kept.append(at)
            writer.add_documents(np.frombuffer(ids, np.int32), np.frombuffer(mask, np.bool_), np.array(ends, np.int64))
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
    """Rendered documents, still in their chunks, read as they are asked for: a mapped file would count as memory.

    ``tokens[i]`` (int64) of document i and its key ``keys[i]``, ascending; ``dropped`` holds (source, row, reason) of
    conversations that made none.
    """

    def __init__(self, folders: Sequence[Path], keys: Keys) -> None:
        self._files: list[tuple[int, int]] = []
        self.dropped: list[tuple[int, int, str]] = []
        kept, chunks, begins, tokens = ([np.zeros(0, np.int64)] for _ in range(4))
        step = chunk_size(len(keys))
        for number, folder in enumerate(folders):
            details, mine = read_manifest(folder).details, keys[number * step : (number + 1) * step]
            rows = np.fromfile(folder / "rows.bin", "<i8")
            kept.append(mine[details["kept"]])
            chunks.append(np.full(len(rows) - 1, number))
            begins.append(rows[:-1])
            tokens.append(np.diff(rows))
            for at, reason in details["dropped"]:
                source, _, row = (int(part) for part in parts(mine[at]))
                self.dropped.append((source, row, reason))
            self._files.append(_opened(folder))
        self.keys, self._chunks, self._begins, self.tokens = map(np.concatenate, (kept, chunks, begins, tokens))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, document: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Ids and mask."""
        ids, mask = self._files[self._chunks[document]]
        begin, size = int(self._begins[document]), int(self.tokens[document])
        return (
            np.frombuffer(os.pread(ids, 4 * size, 4 * begin), "<i4"),
            np.frombuffer(os.pread(mask, size, begin), np.bool_),
        )

    def find(self, keys: Keys) -> NDArray[np.int64]:
        """The documents of keys, in the order of the keys; keys that made none are passed over."""
        if not len(self):
            return np.zeros(0, np.int64)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self) - 1)
        return at[self.keys[at] == keys]

    def write_packed(self, chosen: NDArray[np.int64], context: int, writer: ShardWriter) -> None:
        """Pack the chosen documents and append the rows."""
        order, bounds = pack(self.tokens[chosen], context)
        for first, end in pairwise(bounds.tolist()):
            some = [self[d] for d in chosen[order[first:end]].tolist()]
            starts = np.cumsum([0, *(len(ids) for ids, _ in some[:-1])])
            writer.add(np.concatenate([i for i, _ in some]), np.concatenate([m for _, m in some]), starts)

    def close(self) -> None:
        for file in (file for pair in self._files for file in pair):
            os.close(file)
        self._files = []


def _opened(folder: Path) -> tuple[int, int]:
    try:
        return os.open(folder / "ids.bin", os.O_RDONLY), os.open(folder / "mask.bin", os.O_RDONLY)
    except OSError as error:
        why = f"cannot be opened: {error.strerror}; allow {4 * CHUNKS} open files (ulimit -n), then run it again"
        raise DataError(why, source=str(folder)) from error


def chunk_size(n: int) -> int:
    """Conversations a chunk where there are ``n``."""
    return max(CHUNK, -(-n // CHUNKS))


def render_all(renderer: Renderer, keys: Keys, workers: Workers) -> Iterator[tuple[int, Path]]:
    """Render every key; yields (conversations in the chunk, its folder) in order, as they get done."""
    step = chunk_size(len(keys))
    chunks = [keys[i : i + step] for i in range(0, len(keys), step)]
    yield from zip(map(len, chunks), workers.map(renderer.chunk, chunks), strict=True)
