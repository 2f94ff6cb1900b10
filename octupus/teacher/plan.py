"""The prompts of a teacher run: stable ids, shards of about equal size, on disk, in bounded memory."""

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

from octupus.config import TeacherSection
from octupus.data.files import content_hash, value_hash
from octupus.data.shards import writing
from octupus.data.sources import Source, open_source, rows_code
from octupus.errors import ConfigError, DataError
from octupus.runs import Run, publish_json, read_json
from octupus.wire.messages import Conversation, canonical_json

CHARACTERS_PER_TOKEN = 3
"""For estimates only; Chinese has fewer, English more."""


@dataclass(frozen=True)
class Prompt:
    """A conversation to answer turn by turn: an optional system text and the user's turns."""

    id: str
    system: str | None
    users: tuple[str, ...]
    source: str
    row: str

    @property
    def tokens(self) -> int:
        """Estimated, of the prompt."""
        return sum(map(len, (self.system or "", *self.users))) // CHARACTERS_PER_TOKEN


@dataclass(frozen=True)
class Plan:
    """``plan/<shard>.jsonl`` and ``plan/manifest.json``, written last."""

    folder: Path
    inputs: str
    prompts: int
    shards: int
    rejected: dict[str, int]

    def file(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.jsonl"

    def shard(self, number: int) -> list[Prompt]:
        """The prompts of a shard, the longest first, so that no long one is left alone at the end."""
        with self.file(number).open(encoding="utf-8") as lines:
            found = [Prompt(**{**row, "users": tuple(row["users"])}) for row in map(json.loads, lines)]
        return sorted(found, key=lambda p: (-p.tokens, p.id))


def make_plan(section: TeacherSection, run: Run, folder: Path, identity: Mapping[str, Any]) -> Plan:
    """The plan in ``folder``, made anew where anything that decides it has changed.

    Raises:
        ConfigError: no prompts in the recipe. DataError: prompts that cannot be read, or none left.
    """
    if not section.prompts:
        raise ConfigError("teacher.prompts names no source: nothing to answer; add one to the recipe")
    sources = [open_source(prompts, run) for prompts in section.prompts]
    decides = {"identity": dict(identity), "sampling": section.sampling.model_dump(mode="json")}
    inputs = value_hash(
        {
            **decides,
            "shards": section.shards,
            "sources": [s.section.model_dump(mode="json", exclude={"epochs"}) for s in sources],
            "files": [None if s.path is None else content_hash(s.path) for s in sources],
            "code": rows_code(),
        }
    )
    known = read_json(folder / "manifest.json")
    if known is None or known["inputs"] != inputs:
        known = {"inputs": inputs, **_write(sources, folder, section.shards, decides)}
        publish_json(folder / "manifest.json", known)
    return Plan(folder, inputs, known["prompts"], known["shards"], known["rejected"])


def _write(sources: list[Source], folder: Path, shards: int, decides: Mapping[str, Any]) -> dict[str, Any]:
    rejected: Counter[str] = Counter()
    seen: set[int] = set()
    with writing(folder), ExitStack() as stack:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        files = [stack.enter_context((folder / f"{i:05d}.jsonl").open("w", encoding="utf-8")) for i in range(shards)]
        lightest = [(0, i) for i in range(shards)]
        for prompt in _prompts(sources, decides, rejected):
            short = int(prompt.id[:16], 16)
            if short in seen:
                rejected["the same prompt twice"] += 1
                continue
            seen.add(short)
            tokens, shard = heapq.heappop(lightest)
            heapq.heappush(lightest, (tokens + prompt.tokens + 1, shard))
            files[shard].write(canonical_json(vars(prompt)) + "\n")
    if not seen:
        raise DataError(f"no prompt is left to answer: {dict(rejected)}", source="teacher.prompts")
    return {"prompts": len(seen), "shards": shards, "rejected": dict(rejected)}


def _prompts(sources: list[Source], decides: Mapping[str, Any], rejected: Counter[str]) -> Iterator[Prompt]:
    for source in sources:
        read = bad = 0
        last = ""
        for row_id, row in source.rows():
            read += 1
            try:
                system, users = _turns(source.conversation(row_id, row))
                said = {"system": system, "users": users, **decides}
                yield Prompt(value_hash(said)[:32], system, users, source.label, row_id)
            except DataError as error:
                bad, last = bad + 1, f"row {row_id}: {error.reason}"
                rejected[error.reason.partition(": ")[0]] += 1
        if bad > source.section.max_reject_rate * read:
            raise DataError(
                f"{bad} of {read} rows are no prompts, {source.section.max_reject_rate:.0%} allowed; the last: {last}",
                source=source.label,
            )


def _turns(conversation: Conversation) -> tuple[str | None, tuple[str, ...]]:
    if conversation.tools or any(m.role == "tool" or m.tool_calls for m in conversation.messages):
        raise DataError("a prompt with tools; this teacher answers plain chat")
    first = conversation.messages[0]
    users = tuple(m.content for m in conversation.messages if m.role == "user")
    if not users or not all(text.strip() for text in users):
        raise DataError("no user turn, or an empty one")
    try:
        "\n".join(users).encode()
    except UnicodeEncodeError as error:
        raise DataError("not well-formed text") from error
    return (first.content if first.role == "system" else None), users
