"""Shards: token rows as memory-mapped arrays, with a manifest that is published last.

A shard folder holds four flat little-endian arrays and ``manifest.json``:

==============  ======  ==========================================================================
``ids.bin``     int32   the token ids of all rows, one after the other
``mask.bin``    uint8   1 where the token is supervised, same length as ``ids.bin``
``rows.bin``    int64   ``rows + 1`` offsets: row r is ``ids[rows[r]:rows[r + 1]]``
``starts.bin``  int64   ``documents + 1`` offsets of the documents into ``ids``; every row starts a document
==============  ======  ==========================================================================

The same rows give the same bytes. A folder without a manifest is unfinished, whatever else lies in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from octupus.errors import DataError
from octupus.publish import publish_json, read_json

FORMAT_VERSION = 1
ARRAYS = {"ids": "<i4", "mask": "<u1", "rows": "<i8", "starts": "<i8"}


class FileFacts(BaseModel):
    """What a file must look like to be whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """``manifest.json``; its presence says that the shards are whole. Holds no time and no absolute path."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: int = FORMAT_VERSION
    fingerprint: str = ""
    """Of the wire format that rendered the rows; training refuses another."""
    inputs: str = ""
    """Hash over everything that decides the rows; shards with the same one are not built again."""
    context: int = 0
    """The longest row allowed, in tokens."""
    rows: int
    documents: int
    tokens: int
    supervised_tokens: int
    packing_efficiency: float = 1.0
    """``tokens / (rows * context)``."""
    details: dict[str, Any] = {}
    """Sources with counts, licences and reasons (see data_recipes/build.py)."""
    files: dict[str, FileFacts]


@dataclass(frozen=True)
class PackedRow:
    """One row: ``ids`` int32 [n], ``mask`` bool [n] (True: supervised), ``starts`` int32 [k], the first always 0."""

    ids: NDArray[np.int32]
    mask: NDArray[np.bool_]
    starts: NDArray[np.int32]

    def documents(self) -> Iterator[tuple[NDArray[np.int32], NDArray[np.bool_]]]:
        """The documents' (ids, mask), in order, as views."""
        bounds = [*self.starts.tolist(), len(self.ids)]
        for begin, end in pairwise(bounds):
            yield self.ids[begin:end], self.mask[begin:end]


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns an OSError into a DataError that names the file and the remedy."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write: {error.strerror or error}; free some space or choose another RUN, then run the same "
            "command again (what is finished is kept)",
            source=str(error.filename or folder),
        ) from error


class ShardWriter:
    """Writes rows into ``folder``; nothing counts until :meth:`publish`.

    Raises:
        DataError: the disk is full or the folder not writable (named, with the remedy); an illegal row.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "manifest.json").unlink(missing_ok=True)  # from here on the folder is unfinished
            self._files: dict[str, BinaryIO] = {n: (folder / f"{n}.bin").open("wb") for n in ARRAYS}
        self._hashes = {n: hashlib.sha256() for n in ARRAYS}
        self.rows = self.documents = self.tokens = self.supervised = 0
        self._write("rows", np.zeros(1, "<i8"))

    def _write(self, name: str, values: NDArray[Any]) -> None:
        data = np.ascontiguousarray(values, ARRAYS[name]).tobytes()
        self._hashes[name].update(data)
        with writing(self.folder):
            self._files[name].write(data)

    def add(
        self,
        ids: Sequence[int] | NDArray[np.integer[Any]],
        mask: Sequence[bool] | NDArray[np.bool_],
        starts: Sequence[int] | NDArray[np.integer[Any]] = (0,),
    ) -> None:
        """Append one row of ``len(ids)`` tokens whose documents begin at ``starts`` (the first one at 0)."""
        starts_ = np.asarray(starts, np.int64)
        if not len(starts_):
            raise DataError("a row without a document is illegal", row=self.rows)
        self._append(np.asarray(ids, np.int32), np.asarray(mask, np.bool_), starts_, np.array([len(ids)]))

    def add_documents(self, ids: NDArray[np.int32], mask: NDArray[np.bool_], ends: NDArray[np.int64]) -> None:
        """Append rows of one document each, laid end to end in ``ids`` and ``mask``, which end at ``ends``."""
        if len(ends):
            self._append(ids, mask, np.concatenate([[0], ends[:-1]]), ends)

    def _append(
        self, ids: NDArray[np.int32], mask: NDArray[np.bool_], starts: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> None:
        """Rows that end at ``ends`` and documents that begin at ``starts``, a row's first token among them."""
        begins = np.concatenate([[0], ends[:-1]])
        if len(ids) != len(mask) or ends[-1] != len(ids) or starts[0] != 0 or (np.diff(starts) <= 0).any():
            raise DataError("ids and mask differ in length, or starts do not rise from 0", row=self.rows)
        if starts[-1] >= len(ids) or not np.logical_or.reduceat(mask, begins).all():
            raise DataError("a row with nothing supervised, or an empty document, is illegal", row=self.rows)
        self._write("ids", ids)
        self._write("mask", mask)
        self._write("starts", starts + self.tokens)
        self._write("rows", ends + self.tokens)
        self.rows += len(ends)
        self.documents += len(starts)
        self.tokens += len(ids)
        self.supervised += int(np.count_nonzero(mask))

    def publish(
        self, *, context: int = 0, fingerprint: str = "", inputs: str = "", details: Mapping[str, Any] | None = None
    ) -> Manifest:
        """Close the arrays and write the manifest: from now on the shards exist."""
        self._write("starts", np.array([self.tokens]))
        self._close()
        manifest = Manifest(
            fingerprint=fingerprint,
            inputs=inputs,
            context=context,
            rows=self.rows,
            documents=self.documents,
            tokens=self.tokens,
            supervised_tokens=self.supervised,
            packing_efficiency=round(self.tokens / (self.rows * context), 6) if self.rows and context else 1.0,
            details=dict(details or {}),
            files={
                f"{n}.bin": FileFacts(bytes=(self.folder / f"{n}.bin").stat().st_size, sha256=h.hexdigest())
                for n, h in self._hashes.items()
            },
        )
        publish_json(self.folder / "manifest.json", manifest)
        return manifest

    def _close(self) -> None:
        with writing(self.folder):
            for stream in self._files.values():
                stream.close()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._close()


class Shards:
    """Published shards, read without copying: ``len``, ``shards[i] -> PackedRow``.

    Raises:
        DataError: no manifest, another format version, or a file whose size is not the manifest's.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        for name, facts in self.manifest.files.items():
            path = self.folder / name
            size = path.stat().st_size if path.is_file() else -1
            if size != facts.bytes:
                found = "is missing" if size < 0 else f"has {size} bytes"
                raise DataError(
                    f"{found}, its manifest says {facts.bytes}; delete {self.folder} and run `make data` again",
                    source=str(path),
                )
        self._ids = self._array("ids", np.int32)
        self._mask = self._array("mask", np.bool_)
        self._rows = self._array("rows", np.int64)
        self._starts = self._array("starts", np.int64)

    def _array(self, name: str, kind: type[Any]) -> NDArray[Any]:
        path = self.folder / f"{name}.bin"
        if not path.stat().st_size:  # mmap knows no empty files
            return np.zeros(0, kind)
        return np.memmap(path, dtype=ARRAYS[name], mode="r").view(kind)

    def __len__(self) -> int:
        return self.manifest.rows

    def __getitem__(self, index: int) -> PackedRow:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        begin, end = int(self._rows[index]), int(self._rows[index + 1])
        first, last = np.searchsorted(self._starts, (begin, end))
        starts = (self._starts[first:last] - begin).astype(np.int32)
        return PackedRow(self._ids[begin:end], self._mask[begin:end], starts)

    def __iter__(self) -> Iterator[PackedRow]:
        return (self[i] for i in range(len(self)))

    @property
    def row_tokens(self) -> NDArray[np.int64]:
        """Tokens of every row, int64 [rows]."""
        return np.diff(self._rows)

    def verify(self) -> None:
        """Read every byte and compare the hashes.

        Raises:
            DataError: naming the file that has changed since it was written.
        """
        for name, facts in self.manifest.files.items():
            with (self.folder / name).open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            if found != facts.sha256:
                raise DataError(
                    f"has changed since it was written; delete {self.folder} and run `make data` again",
                    source=str(self.folder / name),
                )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of finished shards.

    Raises:
        DataError: there is none, or it is of another format.
    """
    raw = read_json(folder / "manifest.json")
    if raw is None:
        raise DataError("no finished shards here (no manifest.json); run `make data`", source=str(folder))
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        raise DataError(f"manifest.json is not readable: {error}", source=str(folder)) from error
    if manifest.format_version != FORMAT_VERSION:
        raise DataError(
            f"shards of format {manifest.format_version}, this version reads {FORMAT_VERSION}; run `make data` again",
            source=str(folder),
        )
    return manifest
