"""Conversations on disk: one JSON line each, found by number, with columns of facts beside them.

A store is a folder of ``conversations.jsonl``, one array a column (:data:`COLUMNS`), ``signatures.bin`` (see near.py;
empty where nobody asked for it) and ``report.json``, which is written last and says that the others are whole. What one
worker made of a chunk of rows is such a folder, too.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from octupus.data.near import SLOTS
from octupus.data.shards import writing
from octupus.errors import DataError
from octupus.publish import publish_json, read_json
from octupus.wire.messages import Conversation, canonical_json

COLUMNS = {"ends": "<i8", "identities": "<u8", "questions": "<u8", "languages": "<u1", "tools": "<u2"}
"""Byte offsets behind each line; digests of all that is said and of the first question; place in LANGUAGES; tools."""
_LINES, _SIGNATURES = "conversations.jsonl", "signatures.bin"


def digest(text: str) -> int:
    """64 bits of sha256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def identity(conversation: Conversation) -> int:
    """Equal for conversations that differ in nothing but call ids."""
    turns = [[m.role, m.content, [[c.name, c.arguments] for c in m.tool_calls]] for m in conversation.messages]
    return digest(canonical_json([turns, [t.raw for t in conversation.tools]]))


def question(conversation: Conversation) -> int:
    """Equal for conversations that open with the same user message."""
    return digest(next((m.content for m in conversation.messages if m.role == "user"), ""))


def as_json(conversation: Conversation) -> str:
    """The conversation as one line of JSON; what is left out has its default.

    Raises:
        DataError: lone surrogates, NaN or Infinity, which neither a file nor the wire can carry.
    """
    try:
        text = canonical_json(conversation.model_dump(exclude_defaults=True))
        text.encode()
    except (ValueError, RecursionError) as error:  # UnicodeEncodeError is a ValueError
        raise DataError(f"not well-formed text or JSON: {error}") from error
    return text


class StoreWriter:
    """Writes a store; nothing counts until :meth:`publish`.

    Raises:
        DataError: no space, or no right to write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._end, self.rows = folder, 0, 0
        with writing(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._streams: dict[str, BinaryIO] = {
                name: (folder / name).open("wb") for name in (_LINES, _SIGNATURES, *(f"{c}.bin" for c in COLUMNS))
            }

    def add(self, lines: Sequence[bytes], signatures: NDArray[np.uint32], **columns: NDArray[Any]) -> None:
        """Append rows: their lines (see :func:`line`), signatures (none, or one each) and columns but for ``ends``."""
        ends = self._end + np.cumsum([len(text) for text in lines])
        with writing(self.folder):
            self._streams[_LINES].write(b"".join(lines))
            self._streams[_SIGNATURES].write(np.ascontiguousarray(signatures, "<u4").tobytes())
            for name, kind in COLUMNS.items():
                values = ends if name == "ends" else columns[name]
                self._streams[f"{name}.bin"].write(np.ascontiguousarray(values, kind).tobytes())
        self._end = int(ends[-1]) if len(ends) else self._end
        self.rows += len(lines)

    def publish(self, report: Mapping[str, Any]) -> None:
        self._close()
        publish_json(self.folder / "report.json", {**report, "kept": self.rows, "bytes": self._end})

    def _close(self) -> None:
        with writing(self.folder):
            for stream in self._streams.values():
                stream.close()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._close()


def line(row_id: str, labels: Mapping[str, Any], text: str) -> bytes:
    """A conversation's line, from its :func:`as_json`; labels are kept beside it."""
    head = canonical_json({"id": row_id, "labels": labels})
    return f'{head[:-1]}, "conversation": {text}}}\n'.encode()


class Store:
    """A finished store; ``store[row]`` is ``{"id", "labels", "conversation"}``."""

    def __init__(self, folder: Path, report: dict[str, Any]) -> None:
        self.folder, self.report = folder, report
        sizes = {_LINES: report["bytes"]}
        sizes |= {f"{name}.bin": report["kept"] * np.dtype(kind).itemsize for name, kind in COLUMNS.items()}
        for name, size in sizes.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != size:
                raise DataError("a file is cut; delete the folder and run the same command again", source=str(path))

    @classmethod
    def find(cls, folder: Path, inputs: str) -> Store | None:
        """The finished store that was made from these inputs, or None."""
        report = read_json(folder / "report.json")
        return cls(folder, report) if report is not None and report["inputs"] == inputs else None

    def column(self, name: str) -> NDArray[Any]:
        """One of :data:`COLUMNS`, read anew."""
        return np.fromfile(self.folder / f"{name}.bin", COLUMNS[name])

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return self.column("ends")

    @cached_property
    def _file(self) -> int:
        return os.open(self.folder / _LINES, os.O_RDONLY)  # a mapped file would count as this process's memory

    def __del__(self) -> None:
        if "_file" in self.__dict__:
            os.close(self._file)

    @property
    def signatures(self) -> Path:
        return self.folder / _SIGNATURES

    def __len__(self) -> int:
        kept: int = self.report["kept"]
        return kept

    def _bounds(self, row: int) -> tuple[int, int]:
        return int(self._ends[row - 1]) if row else 0, int(self._ends[row])

    def __getitem__(self, row: int) -> dict[str, Any]:
        begin, end = self._bounds(row)
        value: dict[str, Any] = json.loads(os.pread(self._file, end - begin, begin))
        return value

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[row] for row in range(len(self)))

    def conversation(self, row: int) -> Conversation:
        return Conversation.model_validate(self[row]["conversation"])

    def copy(self, rows: NDArray[np.int64], writer: StoreWriter) -> None:
        """Append some of the rows, ascending, to another store."""
        whole = np.fromfile(self.signatures, "<u4").reshape(-1, SLOTS)
        lines = [os.pread(self._file, end - begin, begin) for begin, end in map(self._bounds, rows.tolist())]
        columns = {name: self.column(name)[rows] for name in COLUMNS if name != "ends"}
        writer.add(lines, whole[rows] if len(whole) else whole, **columns)
