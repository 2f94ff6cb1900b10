"""Rows out of files: parquet, json (an array or one object a line) and jsonl, streamed in a fixed order."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from octupus.config import RECIPES
from octupus.errors import DataError
from octupus.wire.messages import canonical_json

SUFFIXES = (".parquet", ".json", ".jsonl")
NO_ROWS = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"}
"""What the datasets library writes beside its data."""
_CHUNK = 1 << 20
_GAP = re.compile(r"[\s,]*")  # between two elements of an array
_DECODE = json.JSONDecoder().raw_decode


def data_files(path: Path, source: str = "") -> list[Path]:
    """The data files at ``path`` (a file, or all below a folder, sorted by name).

    Raises:
        DataError: nothing there, or nothing of a kind that can be read.
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise DataError(f"{path} does not exist; name a file or folder of {', '.join(SUFFIXES)}", source=source)
    found = sorted(
        p for p in path.rglob("*") if p.suffix in SUFFIXES and not p.name.startswith(".") and p.name not in NO_ROWS
    )
    if not found:
        raise DataError(f"{path} holds no {', '.join(SUFFIXES)} file", source=source)
    return found


def file_hashes(path: Path, source: str = "") -> dict[str, str]:
    """sha256 of every data file at ``path``, by its name below ``path`` (its own name where ``path`` is a file)."""
    found = {}
    for file in data_files(path, source):
        with reading(file), file.open("rb") as stream:
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            found[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def content_hash(path: Path) -> str:
    """sha256 over names and contents of the data files at ``path``; no time, no absolute path."""
    return value_hash(sorted(file_hashes(path).items()))


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turns an OSError into a DataError that names the file and the remedy."""
    try:
        yield
    except OSError as error:
        why = f"cannot be read: {error.strerror or error}; check the disk and the rights"
        raise DataError(why, source=str(file)) from error


def value_hash(value: Any) -> str:
    """sha256 of a JSON-able value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def code_hash(*folders: Path) -> str:
    """sha256 over the Python and YAML files below the folders, recipes left out."""
    found = [
        (path.relative_to(folder).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest())
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix == ".py" or (path.suffix == ".yaml" and path.parent != RECIPES)
    ]
    return value_hash(sorted(found))


def records(path: Path, source: str = "") -> Iterator[dict[str, Any]]:
    """Every row of the data files at ``path``, one file after the other.

    Raises:
        DataError: a file that is missing, cut or malformed: named, with the row and what to do.
    """
    for file in data_files(path, source):
        read = {".parquet": _parquet, ".json": _json, ".jsonl": _jsonl}.get(file.suffix)
        if read is None:
            raise DataError(f"cannot read {file.suffix or 'a file without suffix'}; give {SUFFIXES}", source=str(file))
        with reading(file):
            yield from read(file)


def _broken(file: Path, row: int, why: str) -> DataError:
    return DataError(f"{why}; the file is damaged or cut: fetch or write it again", source=str(file), row=row)


def _row(value: Any, file: Path, row: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _broken(file, row, f"a row must be an object, found {type(value).__name__}")
    return value


def _jsonl(file: Path) -> Iterator[dict[str, Any]]:
    with file.open("rb") as stream:
        for row, line in enumerate(stream):
            if line.isspace():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError among them
                raise _broken(file, row, f"not JSON ({error})") from error
            yield _row(value, file, row)


def _json(file: Path) -> Iterator[dict[str, Any]]:
    """An array, read piece by piece (OpenHermes is one array of 1.9 GB), or what is jsonl in truth."""
    row = 0
    with file.open(encoding="utf-8-sig") as stream:
        try:
            buffer = stream.read(_CHUNK)
            at = _GAP.match(buffer).end()  # type: ignore[union-attr]
            if not buffer.startswith("[", at):
                yield from _jsonl(file)
                return
            at += 1
            while True:
                at = _GAP.match(buffer, at).end()  # type: ignore[union-attr]
                if buffer.startswith("]", at):
                    if (buffer[at + 1 :] + stream.read(_CHUNK)).strip():
                        raise _broken(file, row, "more behind the end of the array")
                    return
                try:
                    value, end = _DECODE(buffer, at)
                except json.JSONDecodeError as error:
                    more = stream.read(max(_CHUNK, len(buffer)))
                    if not more:
                        raise _broken(file, row, f"not JSON ({error.msg})") from error
                    buffer, at = buffer[at:] + more, 0
                    continue
                yield _row(value, file, row)
                at, row = end, row + 1
        except UnicodeDecodeError as error:
            raise _broken(file, row, f"not UTF-8 ({error})") from error
        except (RecursionError, ValueError) as error:  # numbers of thousands of digits
            raise _broken(file, row, f"not JSON ({error})") from error


def _parquet(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=512):
                yield from batch.to_pylist()
                row += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise _broken(file, row, f"not parquet ({str(error).splitlines()[0]})") from error
