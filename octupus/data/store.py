"""Conversations on disk: one JSON line each, found by number, with digests of what they say. Bounded memory to read.

A store is a folder of ``conversations.jsonl``, ``ends.bin`` (int64 byte offsets), ``identities.bin`` and
``questions.bin`` (uint64 digests), and ``report.json``, which is written last and says that the others are whole.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from octupus.data.shards import writing
from octupus.errors import DataError
from octupus.runs import publish_json, read_json
from octupus.wire.messages import Conversation, canonical_json

COLUMNS = ("ends", "identities", "questions")


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
            self._lines: BinaryIO = (folder / "conversations.jsonl").open("wb")
            self._columns: list[BinaryIO] = [(folder / f"{name}.bin").open("wb") for name in COLUMNS]

    def add(self, row_id: str, labels: Mapping[str, Any], conversation: Conversation, text: str, same: int) -> None:
        """Append a conversation, its :func:`as_json` and its :func:`identity`; labels are kept beside it."""
        head = canonical_json({"id": row_id, "labels": labels})
        with writing(self.folder):
            self._end += self._lines.write(f'{head[:-1]}, "conversation": {text}}}\n'.encode())
            values = (np.int64(self._end), np.uint64(same), np.uint64(question(conversation)))
            for stream, value in zip(self._columns, values, strict=True):
                stream.write(value.tobytes())
        self.rows += 1

    def publish(self, report: Mapping[str, Any]) -> None:
        self._close()
        publish_json(self.folder / "report.json", {**report, "kept": self.rows, "bytes": self._end})

    def _close(self) -> None:
        with writing(self.folder):
            for stream in (self._lines, *self._columns):
                stream.close()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._close()


class Store:
    """A finished store; ``store[row]`` is ``{"id", "labels", "conversation"}``."""

    def __init__(self, folder: Path, report: dict[str, Any]) -> None:
        self.folder, self.report = folder, report
        self._ends: NDArray[np.int64] = np.fromfile(folder / "ends.bin", "<i8")
        self.identities: NDArray[np.uint64] = np.fromfile(folder / "identities.bin", "<u8")
        self.questions: NDArray[np.uint64] = np.fromfile(folder / "questions.bin", "<u8")
        lines = folder / "conversations.jsonl"
        if len({report["kept"], len(self._ends), len(self.identities), len(self.questions)}) > 1 or (
            lines.stat().st_size != report["bytes"]
        ):
            raise DataError("a file is cut; delete the folder and run the same command again", source=str(folder))
        with lines.open("rb") as stream:
            self._bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if report["bytes"] else b""

    @classmethod
    def find(cls, folder: Path, inputs: str) -> Store | None:
        """The finished store that was made from these inputs, or None."""
        report = read_json(folder / "report.json")
        return cls(folder, report) if report is not None and report["inputs"] == inputs else None

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> dict[str, Any]:
        begin = int(self._ends[row - 1]) if row else 0
        value: dict[str, Any] = json.loads(self._bytes[begin : int(self._ends[row])])
        return value

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[row] for row in range(len(self)))

    def conversation(self, row: int) -> Conversation:
        return Conversation.model_validate(self[row]["conversation"])
