"""One source, read once: converted, checked, deduplicated, decontaminated; what is left goes to a store on disk.

This process reads rows and deals them in chunks; workers do the rest of the work and leave each chunk as a small store.
Those are then joined, without the exact duplicates. A finished chunk is never made again.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from data_recipes.check import arranged, check, check_language
from octupus.config import SourceSection
from octupus.data.decontaminate import Benchmark
from octupus.data.language import LANGUAGES, language_of, script_of
from octupus.data.near import SLOTS, signatures, words
from octupus.data.sources import Row, Source, bound, shown
from octupus.data.store import Store, StoreWriter, as_json, identity, line, question
from octupus.data.workers import Workers
from octupus.errors import DataError
from octupus.publish import read_json
from octupus.runs import Reporter
from octupus.wire.messages import Conversation

EXAMPLES, CHUNK = 5, 1024
LABELS = ("split", "kind")
"""What the held-out measure is told of a row, where the row says it."""


@dataclass
class Rejects:
    """Rows left out, by reason, with the ids and the full reason of some."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[list[str]]] = field(default_factory=dict)

    def add(self, reason: str, row_id: str) -> None:
        told = shown(reason)
        self._add(told.partition(": ")[0], 1, [[row_id, told]])

    def join(self, report: dict[str, Any]) -> None:
        """Add what another's :meth:`report` says."""
        for kind, found in report.items():
            self._add(kind, found["count"], found["examples"])

    def _add(self, kind: str, count: int, examples: list[list[str]]) -> None:
        self.counts[kind] += count
        some = self.examples.setdefault(kind, [])
        some += examples[: EXAMPLES - len(some)]

    @property
    def total(self) -> int:
        return self.counts.total()

    def report(self) -> dict[str, Any]:
        return {k: {"count": n, "examples": self.examples[k]} for k, n in self.counts.most_common()}

    def sentence(self) -> str:
        """The most frequent reasons, each with one row in full."""
        return "; ".join(
            f"{n} x {kind} (row {self.examples[kind][0][0]}: {self.examples[kind][0][1]})"
            for kind, n in self.counts.most_common(3)
        )


@dataclass(frozen=True)
class Cleaner:
    """Everything a worker process needs, as plain values."""

    section: SourceSection
    path: Path | None
    benchmark: Path | None
    """BFCL's folder, which the rows must be kept free of."""
    signed: bool
    """Whether rows get the signatures that near duplicates are found by."""
    out: Path

    def chunk(self, number: int, rows: list[Row]) -> Path:
        """Convert, check and decontaminate; leaves a store."""
        folder = self.out / f"{number:06d}"
        if (folder / "report.json").is_file():
            return folder
        source = _source(self.section.model_dump_json(), self.path)
        against = None if self.benchmark is None else _benchmark(self.benchmark)
        rejects, removed, same_name = Rejects(), Rejects(), 0
        kept: list[Conversation] = []
        lines: list[bytes] = []
        languages: list[int] = []
        for row_id, row in rows:
            try:
                conversation = source.conversation(row_id, row)
                check(conversation)
                script = script_of(conversation)
                check_language(script, self.section.languages)
                conversation = arranged(conversation)
                text = as_json(conversation)
            except DataError as error:
                rejects.add(error.reason, row_id)
                continue
            hit = against.hit(conversation) if against else None
            if hit is not None:
                removed.add(hit, row_id)
                continue
            same_name += against is not None and against.same_name(conversation)
            kept.append(conversation)
            lines.append(line(row_id, {k: shown(row[k]) for k in LABELS if isinstance(row.get(k), str)}, text))
            languages.append(LANGUAGES.index(language_of(script)))
        signed = signatures([words(c) for c in kept]) if self.signed else np.zeros((0, SLOTS), np.uint32)
        with StoreWriter(folder) as store:
            store.add(
                lines,
                signed,
                identities=np.array([identity(c) for c in kept], np.uint64),
                questions=np.array([question(c) for c in kept], np.uint64),
                languages=np.array(languages, np.uint8),
                tools=np.array([min(len(c.tools), 65535) for c in kept], np.uint16),
            )
            facts = {"rejected": rejects.report(), "removed": removed.report(), "same_name": same_name}
            store.publish({"read": len(rows), **facts})
        return folder


@cache
def _source(section: str, path: Path | None) -> Source:
    return bound(SourceSection.model_validate_json(section), path)


@cache
def _benchmark(folder: Path) -> Benchmark:
    return Benchmark(folder)


def clean(
    source: Source,
    cleaner: Cleaner,
    folder: Path,
    inputs: str,
    files: Mapping[str, str],
    reporter: Reporter,
    workers: Workers,
) -> Store:
    """Read every row of a source; see the module. ``files`` (sha256 by name) is what the report says it read.

    Raises:
        DataError: a file that cannot be read, or no space for the result.
    """
    folders, read = [], 0
    for done in workers.map(cleaner.chunk, _chunks(source)):
        folders.append(done)
        reporter.advance(CHUNK, source.label)
    chunks = [Store(done, read_json(done / "report.json") or {}) for done in folders]
    rejects, removed = Rejects(), Rejects()
    for chunk in chunks:
        read += chunk.report["read"]
        rejects.join(chunk.report["rejected"])
        removed.join(chunk.report["removed"])
    identities = np.concatenate([np.zeros(0, np.uint64), *(chunk.column("identities") for chunk in chunks)])
    first = np.zeros(len(identities), np.bool_)
    first[np.unique(identities, return_index=True)[1]] = True
    at = 0
    with StoreWriter(folder) as store:
        for chunk in chunks:
            mine = first[at : at + len(chunk)]
            at += len(chunk)
            chunk.copy(np.flatnonzero(mine), store)
            for row in np.flatnonzero(~mine).tolist():
                removed.add("exact duplicate", chunk[row]["id"])
        report = {
            "inputs": inputs,
            "source": source.label,
            "licence": source.licence,
            "revision": source.fetched.revision if source.fetched else None,
            "files": files,
            "read": read,
            "rejected": rejects.report(),
            "removed": removed.report(),
            "same_tool_name_as_bfcl": sum(chunk.report["same_name"] for chunk in chunks),
            "reject_rate": round(rejects.total / read, 6) if read else 0.0,
            "worst": rejects.sentence(),
        }
        store.publish(report)
    shutil.rmtree(cleaner.out.parent, ignore_errors=True)  # no row, no folder
    found = Store.find(folder, inputs)
    assert found is not None
    return found


def _chunks(source: Source) -> Iterator[list[Row]]:
    rows = source.rows()
    while some := list(islice(rows, CHUNK)):
        yield some
