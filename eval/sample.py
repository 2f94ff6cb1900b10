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

from eval.weights import GROUPS, expand
from octupus.config import BfclSection, ServeSection
from octupus.errors import ConfigError, JobError
from octupus.tokenizer import load_wire
from octupus.wire.messages import Message, Tool

STEP_LIMIT = 21
"""Requests that the harness sends in one turn before it gives up on the entry."""
RESULT_TOKENS = 96
"""Allowed for one tool result of a multi-turn entry; BFCL's are short dictionaries."""
CLI = Path(__file__).with_name("bfcl_cli.py")

CountTokens = Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], int]
"""(messages, tools) -> tokens of the prompt."""


def find_up(name: str) -> Path | None:
    """``name`` beside this file's folder or above it: jobs import from a snapshot inside the run folder."""
    return next((folder / name for folder in Path(__file__).resolve().parents if (folder / name).exists()), None)


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
    """One BFCL entry: its turns' messages, and its tools; the last ``late`` of them join at a later turn."""

    id: str
    category: str
    turns: list[list[dict[str, Any]]]
    tools: list[dict[str, Any]]
    late: int = 0


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
        cached = find_up(".cache/bfcl/truth.jsonl")
        if cached is not None:
            return cls(cached.parent)
        python = harness_python()
        folder = python.absolute().parents[2] / ".cache/bfcl"
        command = [str(python), "-I", "-X", "utf8", str(CLI), "dump", str(folder)]
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
                shown = [tools[digest] for digest in (*row["tools"], *late)]
                yield Question(row["id"], row["category"], row["turns"], shown, len(late))


@dataclass(frozen=True)
class Plan:
    """Ids by model and category, in the order in which they are asked, and what is left out with the reason."""

    ids: dict[str, dict[str, list[str]]]
    left_out: dict[str, str]
    main: str = ""
    """The model name whose figures count; the others are small samples, or repeats with a seed."""

    @property
    def total(self) -> int:
        return sum(len(ids) for by_category in self.ids.values() for ids in by_category.values())


def plan(bfcl: BfclSection, serve: ServeSection, data: BfclData, count: CountTokens, group: str | None = None) -> Plan:
    """The last of ``bfcl.models`` is asked everything (``bfcl.repeats`` times), the others ``bfcl.side_entries`` a
    single-turn category. With ``group`` its categories only.

    Raises:
        ConfigError: an unknown category, or a sample of one whose entries build on each other.
    """
    wanted = {name: n for name, n in expand(bfcl.categories).items() if group is None or name in GROUPS[group]}
    left_out = {name: reason for name in wanted if (reason := cannot_run(name, bfcl)) is not None}
    known: dict[str, list[Question]] = {name: [] for name in wanted if name not in left_out}
    for question in data.questions(list(known)):
        known[question.category].append(question)
    ids: dict[str, list[str]] = {}
    for category, questions in known.items():
        n, of = wanted[category], len(questions)
        if n is not None and category.startswith("memory"):
            raise ConfigError(f"bfcl.categories.{category}: its entries build on each other; give null (all), not {n}")
        if n is not None and category.startswith("multi_turn"):
            # A sample is free to leave out what would run into the context's end; a whole category is not.
            questions = [q for q in questions if worst_case(q, serve, count) <= serve.max_model_len]
            if len(questions) < n:
                left_out[f"{category}: {n - len(questions)} of {n}"] = (
                    f"only {len(questions)} of {of} fit serve.max_model_len {serve.max_model_len} at worst"
                )
        every = [q.id for q in questions]
        chosen = every if n is None or n >= len(every) else random.Random(f"{bfcl.seed}:{category}").sample(every, n)
        if chosen:
            ids[category] = sorted(chosen, key=every.index)
    *side, main = bfcl.models
    few = {c: some[: bfcl.side_entries] for c, some in ids.items() if not c.startswith(("multi_turn", "memory", "web"))}
    again = [f"{main}-seed{number}" for number in range(1, bfcl.repeats)]
    return Plan({**dict.fromkeys(side, few), main: ids, **dict.fromkeys(again, ids)}, left_out, main)


def cannot_run(category: str, bfcl: BfclSection) -> str | None:
    """Why a category cannot be run here, or None."""
    if category.startswith("web_search") and not os.environ.get("SERPAPI_API_KEY"):
        return "needs a SerpAPI key in SERPAPI_API_KEY and the internet"
    if category == "memory_vector" and bfcl.embedding_model is None:
        return "needs the embedding model all-MiniLM-L6-v2 on disk: bfcl.embedding_model"
    return None


def worst_case(question: Question, serve: ServeSection, count: CountTokens) -> int:
    """Tokens that a multi-turn entry can come to: every step of every turn answers and hears as much as allowed."""
    prompt = count([message for turn in question.turns for message in turn], question.tools)
    return prompt + len(question.turns) * STEP_LIMIT * (serve.default_max_tokens + RESULT_TOKENS)


def counter(folder: Path | None) -> CountTokens:
    """Counts as the served checkpoint does, or, where its folder is not at hand, one token for two characters."""
    if folder is None:
        return lambda messages, tools: len(json.dumps([messages, tools], ensure_ascii=False)) // 2
    wire, _ = load_wire(folder)

    def count(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> int:
        spoken = [Message(role=m["role"], content=m["content"]) for m in messages]
        return len(wire.render_prompt(spoken, [Tool(raw=dict(tool)) for tool in tools]))

    return count
