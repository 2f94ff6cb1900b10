"""The answers as parquet files, which data recipes, the hub and other people's tools read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from octupus.data.shards import writing
from octupus.errors import DataError
from octupus.teacher.ledger import Ledger, whole_rows
from octupus.wire.messages import canonical_json

ROWS_PER_FILE, ROWS_PER_GROUP = 100_000, 1_000
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("messages", pa.string()),
        ("tools", pa.string()),
        ("teacher", pa.string()),
        ("tokens", pa.int64()),
        ("source", pa.string()),
        ("row", pa.string()),
    ]
)
"""``messages`` and ``tools`` are JSON in OpenAI's form; arguments of calls have no fixed shape, so no column could."""


def write(ledger: Ledger, folder: Path) -> None:
    """Write the answers of every shard, in the plan's order, to ``folder`` anew.

    Raises:
        DataError: a damaged row (the shard's marker was right a moment ago: a failing disk), no space.
    """
    partial, rows = folder.with_name(f".{folder.name}"), _rows(ledger)
    with writing(folder):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for number in count():
            first = list(islice(rows, ROWS_PER_GROUP))
            if not first:
                break
            with pq.ParquetWriter(partial / f"answers-{number:05d}.parquet", SCHEMA, compression="zstd") as writer:
                writer.write_table(pa.Table.from_pylist(first, SCHEMA))
                for _ in range(ROWS_PER_FILE // ROWS_PER_GROUP - 1):
                    writer.write_table(pa.Table.from_pylist(list(islice(rows, ROWS_PER_GROUP)), SCHEMA))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)


def _rows(ledger: Ledger) -> Iterator[dict[str, Any]]:
    for shard in range(ledger.plan.shards):
        path = ledger.file("answers", shard)
        for _, row in whole_rows(path, damaged=True):
            if row is None:
                raise DataError("a row is damaged: run the same command again", source=str(path))
            kept = {name: row.get(name) for name in ("id", "tokens", "source", "row")}
            yield kept | {name: canonical_json(row[name]) for name in ("messages", "tools", "teacher") if name in row}
