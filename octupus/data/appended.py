"""Append-only JSON lines, one row an id, each with a checksum, so that a kill or a flipped bit costs only its row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from octupus.data.shards import writing
from octupus.errors import DataError
from octupus.publish import publish_bytes
from octupus.wire.messages import canonical_json

_SEAL = ', "checksum": "'


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def sealed(row: Mapping[str, Any]) -> bytes:
    """A row as one line that ends with the checksum of what stands before it."""
    body = canonical_json(row)[:-1]
    return f'{body}{_SEAL}{_checksum(body)}"}}\n'.encode()


def opened(line: bytes) -> dict[str, Any] | None:
    """The row of a line, without its checksum, or None where the line is damaged."""
    try:
        body, _, rest = line.decode().rpartition(_SEAL)
        if rest != f'{_checksum(body)}"}}\n':
            return None
        row: dict[str, Any] = json.loads(body + "}")
    except ValueError:  # UnicodeDecodeError and JSONDecodeError
        return None
    return row


class AppendedFile:
    """A file of rows. Opening it drops damaged and repeated ones (``damaged`` says how many).

    Raises:
        DataError: the disk is full; the rows written so far stay.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ids: dict[str, None] = {}
        """In the order of the file."""
        self.damaged = 0
        good: list[bytes] = []
        if path.is_file():
            with path.open("rb") as stream:
                for line in stream:
                    row = opened(line)
                    if row is None or row["id"] in self.ids:
                        self.damaged += 1
                        continue
                    self.ids[row["id"]] = None
                    good.append(line)
        if self.damaged:
            publish_bytes(path, b"".join(good))
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("ab", buffering=0)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row with one call: a kill leaves the row or a damaged tail, never half a row that counts."""
        line = sealed(row)
        with writing(self.path):
            if self._stream.write(line) != len(line):
                raise DataError("the disk is full; free some and run the same command again", source=str(self.path))
        self.ids[row["id"]] = None

    def close(self) -> None:
        self._stream.close()


def appended(folder: Path) -> Iterator[dict[str, Any]]:
    """Every undamaged row of the files below a folder."""
    for path in sorted(folder.rglob("*.jsonl")):
        with path.open("rb") as stream:
            yield from (row for line in stream if (row := opened(line)) is not None)
