"""The prompts of a teacher run: stable ids, shards of about equal tokens, on disk, in bounded memory."""

from __future__ import annotations

import heapq
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octupus.config import SourceSection, TeacherSection
from octupus.data.files import content_hash, value_hash
from octupus.data.shards import writing
from octupus.data.sources import Row, Source, bound, open_source, rows_code
from octupus.data.workers import Workers
from octupus.errors import ConfigError, DataError
from octupus.publish import publish_json, read_json
from octupus.runs import Run
from octupus.teacher.prompts import Prompt, prompt_of
from octupus.wire.messages import canonical_json

CHUNK = 1000
"""Rows that one process turns into prompts at a time."""
ANSWER_DECIDED_BY = {"n", "scorer", "retries", "retry_sampling", "gates"}
"""Values of the recipe that, besides model and sampling, decide which answer is kept; part of the ids where set."""


@dataclass(frozen=True)
class Plan:
    """``plan/<shard>.jsonl`` and ``plan/manifest.json``, written last."""

    folder: Path
    inputs: str
    prompts: int
    shards: int
    rejected: dict[str, int]
    tokens: int
    """Estimated, of all prompts."""

    def file(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.jsonl"

    def shard(self, number: int) -> list[Prompt]:
        """The prompts of a shard, the longest first, so that no long one is left alone at the end."""
        with self.file(number).open(encoding="utf-8") as lines:
            found = [Prompt.read(json.loads(line)) for line in lines]
        return sorted(found, key=lambda p: (-p.tokens, p.id))

    def ids(self, number: int) -> Iterator[str]:
        """The ids of a shard, in the order of the file."""
        with self.file(number).open(encoding="utf-8") as lines:
            yield from (json.loads(line)["id"] for line in lines)


def planned(folder: Path) -> Plan | None:
    """The plan in ``folder``, whatever it was made from."""
    known = read_json(folder / "manifest.json")
    return None if known is None else Plan(folder, **known)


def decides(section: TeacherSection, identity: Mapping[str, Any]) -> dict[str, Any]:
    """What, besides the conversation, decides an answer."""
    chosen = section.model_dump(mode="json", include=ANSWER_DECIDED_BY, exclude_defaults=True)
    return {"identity": dict(identity), "sampling": section.sampling.model_dump(mode="json"), **chosen}


def make_plan(
    section: TeacherSection, run: Run, folder: Path, identity: Mapping[str, Any], with_tools: bool = False
) -> Plan:
    """The plan in ``folder``, made anew where anything that decides it has changed.

    Raises:
        ConfigError: no prompts in the recipe. DataError: prompts that cannot be read, or none left.
    """
    if not section.prompts:
        raise ConfigError("teacher.prompts names no source: nothing to answer; add one to the recipe")
    sources = [open_source(prompts, run) for prompts in section.prompts]
    deciding = decides(section, identity)
    inputs = value_hash(
        {
            **deciding,
            "shards": section.shards,
            "sources": [s.section.model_dump(mode="json", exclude={"epochs"}) for s in sources],
            "files": [None if s.path is None else content_hash(s.path) for s in sources],
            "code": rows_code(),
        }
    )
    known = planned(folder)
    if known is None or known.inputs != inputs:
        with Workers() as workers:
            made = _write(sources, folder, section.shards, deciding, with_tools, workers)
        publish_json(folder / "manifest.json", {"inputs": inputs, **made})
        known = planned(folder)
        assert known is not None, "it was just written"
    return known


def _write(
    sources: list[Source],
    folder: Path,
    shards: int,
    deciding: Mapping[str, Any],
    with_tools: bool,
    workers: Workers,
) -> dict[str, Any]:
    rejected: Counter[str] = Counter()
    seen: set[int] = set()
    total = 0
    with writing(folder), ExitStack() as stack:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        files = [stack.enter_context((folder / f"{i:05d}.jsonl").open("w", encoding="utf-8")) for i in range(shards)]
        lightest = [(0, i) for i in range(shards)]
        for source in sources:
            for identity, tokens, line in _prompts(source, deciding, with_tools, workers, rejected):
                if identity in seen:
                    rejected["the same prompt twice"] += 1
                    continue
                seen.add(identity)
                total += tokens
                weight, shard = heapq.heappop(lightest)
                heapq.heappush(lightest, (weight + tokens + 1, shard))
                files[shard].write(line)
    if not seen:
        raise DataError(f"no prompt is left to answer: {dict(rejected)}", source="teacher.prompts")
    return {"prompts": len(seen), "shards": shards, "rejected": dict(rejected), "tokens": total}


@dataclass(frozen=True)
class _Made:
    """What a process made of a chunk: (64 bits of the id, tokens, the plan's line) of each prompt, and reasons."""

    prompts: list[tuple[int, int, str]]
    reasons: list[tuple[str, str]]


@dataclass(frozen=True)
class _Task:
    """A chunk's work, as a value that travels to another process."""

    section: SourceSection
    path: Path | None
    decides: Mapping[str, Any]
    with_tools: bool

    def __call__(self, number: int, rows: list[Row]) -> _Made:
        made, source = _Made([], []), bound(self.section, self.path)
        for row_id, row in rows:
            try:
                said = source.conversation(row_id, row)
                prompt = prompt_of(said, self.decides, source.label, row_id, self.with_tools)
                made.prompts.append((int(prompt.id[:16], 16), prompt.tokens, canonical_json(vars(prompt)) + "\n"))
            except DataError as error:
                made.reasons.append((row_id, error.reason))
        return made


def _prompts(
    source: Source, deciding: Mapping[str, Any], with_tools: bool, workers: Workers, rejected: Counter[str]
) -> Iterator[tuple[int, int, str]]:
    read = bad = 0
    last = ""
    for made in workers.map(_Task(source.section, source.path, deciding, with_tools), _chunks(source)):
        yield from made.prompts
        read += len(made.prompts) + len(made.reasons)
        bad += len(made.reasons)
        for row_id, reason in made.reasons:
            last = f"row {row_id}: {reason}"
            rejected[reason.partition(": ")[0]] += 1
    if bad > source.section.max_reject_rate * read:
        raise DataError(
            f"{bad} of {read} rows are no prompts, {source.section.max_reject_rate:.0%} allowed; the last: {last}",
            source=source.label,
        )


def _chunks(source: Source) -> Iterator[list[Row]]:
    chunk = list[Row]()
    for row in source.rows():
        chunk.append(row)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
