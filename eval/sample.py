"""Which BFCL entries are asked: the recipe's categories, seeded samples of them, and what the context can hold."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.weights import SIZES, expand
from octupus.config import BfclSection, ServeSection
from octupus.errors import ConfigError, JobError
from octupus.tokenizer import load_wire
from octupus.wire.messages import Message, Tool

STEP_LIMIT = 21
"""Requests that the harness sends in one turn before it gives up on the entry."""
RESULT_TOKENS = 96
"""Allowed for one tool result of a multi-turn entry; BFCL's are short dictionaries."""

CountTokens = Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], int]
"""(messages, tools) -> tokens of the prompt."""


def find_up(name: str) -> Path | None:
    """``name`` beside this file's folder or above it: jobs import from a snapshot inside the run folder."""
    for folder in Path(__file__).resolve().parents:
        if (folder / name).exists():
            return folder / name
    return None


def harness_python() -> Path:
    """The interpreter of BFCL's own environment.

    Raises:
        ConfigError: it has not been set up.
    """
    named = os.environ.get("OCTUPUS_BFCL_PYTHON")
    found = Path(named) if named else find_up(".venv-bfcl/bin/python")
    if found is None or not found.exists():
        raise ConfigError("BFCL's own environment .venv-bfcl is missing; make it with: make setup")
    return found


@dataclass(frozen=True)
class Question:
    """One BFCL entry as its first request shows it."""

    id: str
    category: str
    turns: list[list[dict[str, Any]]]
    tools: list[dict[str, Any]]


class BfclData:
    """The three files of ``make bfcl-data``; see eval/bfcl_cli.py for their lines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def ready(cls) -> BfclData:
        """The cached dump, made now where there is none.

        Raises:
            ConfigError: no BFCL environment. JobError: the dump failed.
        """
        cache = find_up(".cache/bfcl/truth.jsonl")
        if cache is not None:
            return cls(cache.parent)
        python = harness_python()
        folder = python.absolute().parents[2] / ".cache/bfcl"
        command = [str(python), "-I", str(Path(__file__).with_name("bfcl_cli.py")), "dump", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise JobError(f"bfcl-data: {done.stderr.strip()[-500:]}; try: make bfcl-data")
        return cls(folder)

    def rows(self, name: str) -> Iterator[dict[str, Any]]:
        with (self.folder / f"{name}.jsonl").open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)

    def questions(self, categories: Sequence[str]) -> Iterator[Question]:
        tools = {row["digest"]: row["tool"] for row in self.rows("tools")}
        for row in self.rows("questions"):
            if row["category"] in categories and "_prereq_" not in row["id"]:
                late = [digest for digests in row["added"].values() for digest in digests]
                yield Question(row["id"], row["category"], row["turns"], [tools[d] for d in (*row["tools"], *late)])


@dataclass(frozen=True)
class Plan:
    """Ids by model and category, in the order in which they are asked, and what is left out with the reason."""

    ids: dict[str, dict[str, list[str]]]
    left_out: dict[str, str]

    @property
    def total(self) -> int:
        return sum(len(ids) for by_category in self.ids.values() for ids in by_category.values())


def plan(bfcl: BfclSection, serve: ServeSection, data: BfclData, count: CountTokens) -> Plan:
    """The last of ``bfcl.models`` is asked everything, the others ``bfcl.side_entries`` a single-turn category."""
    wanted = expand(bfcl.categories)
    left_out = {name: reason for name in wanted if (reason := _cannot_run(name)) is not None}
    wanted = {name: n for name, n in wanted.items() if name not in left_out}
    known: dict[str, list[Question]] = {name: [] for name in wanted}
    for question in data.questions(list(wanted)):
        known[question.category].append(question)
    ids: dict[str, list[str]] = {}
    for category, n in wanted.items():
        questions = known[category]
        if n is not None and category.startswith("multi_turn"):
            # A sample is free to leave out what would run into the context's end; a whole category is not.
            questions = [q for q in questions if worst_case(q, serve, count) <= serve.max_model_len]
            if len(questions) < n:
                left_out[f"{category}: {n - len(questions)} of {n}"] = (
                    f"the worst case of all but {len(questions)} of {SIZES[category]} entries exceeds "
                    f"serve.max_model_len {serve.max_model_len}"
                )
        if n is not None and category.startswith("memory"):
            raise ConfigError(f"bfcl.categories.{category}: its entries build on each other; give null (all), not {n}")
        every = [q.id for q in questions]
        chosen = every if n is None or n >= len(every) else random.Random(f"{bfcl.seed}:{category}").sample(every, n)
        ids[category] = sorted(chosen, key=every.index)
    ids = {category: chosen for category, chosen in ids.items() if chosen}
    *side, main = bfcl.models
    few = {
        c: chosen[: bfcl.side_entries] for c, chosen in ids.items() if not c.startswith(("multi_turn", "memory", "web"))
    }
    return Plan({**dict.fromkeys(side, few), main: ids}, left_out)


def _cannot_run(category: str) -> str | None:
    if category.startswith("web_search") and not os.environ.get("SERPAPI_API_KEY"):
        return "needs a SerpAPI key in SERPAPI_API_KEY and the internet"
    if category == "memory_vector":
        return "needs the embedding model all-MiniLM-L6-v2 on disk"
    return None


def worst_case(question: Question, serve: ServeSection, count: CountTokens) -> int:
    """Tokens of the longest prompt plus answer that a multi-turn entry can come to.

    Every step of every turn is taken to answer as long as allowed and to get a result of RESULT_TOKENS.
    """
    messages = [message for turn in question.turns for message in turn]
    return count(messages, question.tools) + len(question.turns) * STEP_LIMIT * (
        serve.default_max_tokens + RESULT_TOKENS
    )


def counter(folder: Path | None) -> CountTokens:
    """Counts as the served checkpoint does, or, where its folder is not at hand, one token for two characters."""
    if folder is None:
        return lambda messages, tools: len(json.dumps([messages, tools], ensure_ascii=False)) // 2
    wire, _ = load_wire(folder)
    return lambda messages, tools: len(
        wire.render_prompt(
            tuple(Message(role=m["role"], content=m["content"]) for m in messages),
            tuple(Tool(raw=dict(t)) for t in tools),
        )
    )
