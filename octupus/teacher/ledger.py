"""What has been answered, on disk: every id once, whatever is killed, cut or flipped in between.

==============================  ==================================================================================
``parts/<shard>.<gen>.jsonl``   rows as they come, appended by the worker that holds that generation of the claim
``answers/<shard>.jsonl``       a finished shard's usable answers, in the plan's order
``rejects/<shard>.jsonl``       its rejected ones; each row says the reason
``done/<shard>.json``           written last: counts, and size and sha256 of the two files
==============================  ==================================================================================

Each row carries a checksum. A finished shard whose files do not match their hashes is opened again: whole rows go on
as its part of generation 0, and what is missing is asked again.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from octupus.data.appended import AppendedFile, opened
from octupus.data.shards import writing
from octupus.publish import publish_json, read_json
from octupus.teacher.measure import Lengths, example
from octupus.teacher.plan import Plan

KINDS = ("answers", "rejects")
SALVAGED = 0
EXAMPLES = 2
"""Rejects of each reason that a shard's marker quotes."""


class Ledger:
    """The rows of a plan. Creating the object touches nothing on disk."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan

    def name(self, shard: int) -> str:
        return f"{shard:05d}"

    def marker(self, shard: int) -> dict[str, Any] | None:
        """A finished shard's counts."""
        found: dict[str, Any] | None = read_json(self.folder / "done" / f"{self.name(shard)}.json")
        return found

    def unfinished(self) -> list[int]:
        """The shards without a marker."""
        done = {path.stem for path in (self.folder / "done").glob("*.json")}
        return [shard for shard in range(self.plan.shards) if self.name(shard) not in done]

    def finished(self) -> int:
        """The prompts of the finished shards."""
        markers = [self.marker(shard) for shard in range(self.plan.shards)]
        return sum(m["answers"] + sum(m["rejects"].values()) for m in markers if m is not None)

    def file(self, kind: str, shard: int) -> Path:
        return self.folder / kind / f"{self.name(shard)}.jsonl"

    def parts(self, shard: int) -> list[Path]:
        """In the order of their generations."""
        found = (self.folder / "parts").glob(f"{self.name(shard)}.*.jsonl")
        return sorted(found, key=lambda path: int(path.name.split(".")[1]))

    def part(self, shard: int, generation: int) -> AppendedFile:
        """A part to append to. Raises DataError: no space."""
        return AppendedFile(self.folder / "parts" / f"{self.name(shard)}.{generation}.jsonl")

    def known(self, shard: int) -> set[str]:
        """The ids that an unfinished shard's parts answer."""
        return {row["id"] for path in self.parts(shard) for _, row in whole_rows(path)}

    def finish(self, shard: int, order: list[str]) -> None:
        """Make the parts of a shard, which answer every id of ``order``, into its two files and its marker."""
        places = dict[str, tuple[Path, int, int]]()
        reasons, examples = Counter[str](), dict[str, list[dict[str, str]]]()
        rejected, lengths, tokens = set[str](), Lengths(), 0
        for path in self.parts(shard):
            at = 0
            for size, row in whole_rows(path, damaged=True):
                begin, at = at, at + size
                if row is None or row["id"] in places:  # a worker that was slow, not dead, may have answered it too
                    continue
                places[row["id"]] = (path, begin, size)
                tokens += row["tokens"]
                lengths.add(row)
                if row.get("reason"):
                    rejected.add(row["id"])
                    short = row["reason"].partition(": ")[0]
                    reasons[short] += 1
                    examples.setdefault(short, [])
                    examples[short] += [example(row)][: EXAMPLES - len(examples[short])]
        files = {}
        for kind in KINDS:
            mine = [id for id in order if id in places and (id in rejected) == (kind == "rejects")]
            files[kind] = _copy([places[id] for id in mine], self.file(kind, shard))
        marker = {
            "answers": len(places) - len(rejected),
            "rejects": dict(sorted(reasons.items())),
            "examples": examples,
            "lengths": lengths.counts,
            "tokens": tokens,
            "files": files,
        }
        publish_json(self.folder / "done" / f"{self.name(shard)}.json", marker)
        for path in self.parts(shard):
            path.unlink(missing_ok=True)

    def check(self) -> list[str]:
        """Open finished shards again whose files are not what their markers say; a sentence for each."""
        said = []
        for shard in range(self.plan.shards):
            marker = self.marker(shard)
            if marker is None:
                continue
            bad = [k for k in KINDS if _facts(self.file(k, shard)) != tuple(marker["files"][k])]
            if bad:
                missing = self._reopen(shard)
                said.append(f"shard {shard}: {', '.join(bad)} damaged; {missing} rows are asked again")
        return said

    def _reopen(self, shard: int) -> int:
        """Keep a shard's whole rows as its part of generation 0; returns how many are missing."""
        wanted, part = set(self.plan.ids(shard)), self.part(shard, SALVAGED)
        for kind in KINDS:
            path = self.file(kind, shard)
            for _, row in whole_rows(path) if path.is_file() else ():
                if row["id"] in wanted and row["id"] not in part.ids:
                    part.append(row)
        part.close()
        missing = len(wanted) - len(part.ids)
        (self.folder / "done" / f"{self.name(shard)}.json").unlink()
        for kind in KINDS:
            self.file(kind, shard).unlink(missing_ok=True)
        return missing

    def supersede(self) -> None:
        """Put what was made for another plan aside; rows whose ids are still asked are taken over."""
        aside = self.folder / "superseded"
        for kind in (*KINDS, "parts", "done"):
            if (self.folder / kind).is_dir():
                aside.mkdir(parents=True, exist_ok=True)
                (self.folder / kind).rename(aside / f"{kind}-{len(list(aside.iterdir()))}")
        if aside.is_dir():
            self._take_over(sorted(aside.rglob("*.jsonl")))

    def _take_over(self, files: list[Path]) -> None:
        shard_of = {int(id[:16], 16): shard for shard in range(self.plan.shards) for id in self.plan.ids(shard)}
        parts: dict[int, AppendedFile] = {}
        for path in files:
            for _, row in whole_rows(path):
                shard = shard_of.pop(int(row["id"][:16], 16), None)
                if shard is not None:
                    if shard not in parts:
                        parts[shard] = self.part(shard, SALVAGED)
                    parts[shard].append(row)
        for part in parts.values():
            part.close()


def whole_rows(path: Path, damaged: bool = False) -> Iterator[tuple[int, Any]]:
    """(bytes, row) of each undamaged line; with ``damaged`` also (bytes, None) of the others."""
    with path.open("rb") as stream:
        for line in stream:
            row = opened(line)
            if row is not None or damaged:
                yield len(line), row


def _copy(places: list[tuple[Path, int, int]], target: Path) -> tuple[int, str]:
    """Write lines out of several files in the given order; size and sha256 of the result."""
    partial, digest, size = target.with_name(f".{target.name}.{os.getpid()}"), hashlib.sha256(), 0
    sources = {path: os.open(path, os.O_RDONLY) for path in {path for path, _, _ in places}}
    try:
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as stream:
                for path, begin, length in places:
                    line = os.pread(sources[path], length, begin)
                    digest.update(line)
                    size += stream.write(line)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
        for fd in sources.values():
            os.close(fd)
    return size, digest.hexdigest()


def _facts(path: Path) -> tuple[int, str] | None:
    """Size and sha256 of a file."""
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        return path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()


def totals(markers: Mapping[int, Mapping[str, Any]]) -> tuple[int, Counter[str], int]:
    """Answers, rejects by reason, and tokens of the finished shards."""
    reasons = Counter[str]()
    for marker in markers.values():
        reasons.update(marker["rejects"])
    return sum(m["answers"] for m in markers.values()), reasons, sum(m["tokens"] for m in markers.values())
