"""Files that other processes read: replaced whole or not at all, or added to line by line."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from octupus.errors import JobError


def publish_bytes(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old content or the new, never a half.

    Raises:
        JobError: the file system is full or not writable; nothing at ``path`` has changed then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> JobError:
    return JobError(f"cannot write {path}: {error.strerror}; free some space or choose another RUN folder")


def publish_json(path: Path, value: Any) -> None:
    """:func:`publish_bytes` of ``value`` (a pydantic model or plain data) as indented JSON."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    publish_bytes(path, (json.dumps(plain, ensure_ascii=False, indent=1) + "\n").encode())


def read_json(path: Path) -> Any | None:
    """The JSON at ``path``, or None where there is none.

    Raises:
        JobError: the file is damaged (publishing leaves none such: a copy that was cut off, a disk that failed).
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise JobError(f"{path} is damaged ({error}); restore it, or remove it to have its part done anew") from error


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """Append one line; a single ``write`` call, so that lines of several writers do not mix.

    Raises:
        OSError: no space is left; then nothing of the line stays, which else would be glued to the next one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
    with path.open("ab", buffering=0) as stream:
        written = stream.write(line)
        if written != len(line):
            if os.fstat(stream.fileno()).st_size == stream.tell():  # else somebody else's line stands behind it
                stream.truncate(stream.tell() - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
