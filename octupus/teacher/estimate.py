"""What a teacher run will come to, before a job is queued: shards, GPU-hours from a measured rate, disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from octupus.config import Recipe
from octupus.runs import Run
from octupus.teacher.plan import Plan, make_plan, planned
from octupus.teacher.protocol import takes_tools

BYTES_PER_TOKEN = 4.5
COPIES = 2
"""Answers lie as rows and, packed, as parquet; while a shard is finished, its rows lie twice."""


def lines(recipe: Recipe, run: Run, gpus: int) -> Iterator[str]:
    """A few sentences on the stage; the plan is made in a temporary folder where the run has none.

    Raises:
        ConfigError, DataError: prompts that cannot be read.
    """
    section = recipe.teacher
    plan = planned(run.stage("teacher").path / "plan")
    if plan is None:
        with TemporaryDirectory() as folder:
            made = make_plan(section, run, Path(folder) / "plan", {}, takes_tools(section))
            yield from _of(made, recipe, run, gpus)
    else:
        yield from _of(plan, recipe, run, gpus)


def _of(plan: Plan, recipe: Recipe, run: Run, gpus: int) -> Iterator[str]:
    section = recipe.teacher
    yield (
        f"teacher: {plan.prompts:,} prompts, about {plan.tokens:,} tokens, in {plan.shards} shards of about "
        f"{plan.tokens // plan.shards:,}, for {section.workers} worker(s) of {gpus} GPU(s)"
    )
    rows = _rates(run)
    per_prompt = sum(r["tokens"] for r in rows) / sum(r["prompts"] for r in rows) if rows else None
    rate, source = (
        (median(r["tokens"] / r["seconds"] for r in rows), "measured in this run")
        if rows
        else (section.tokens_per_s, "teacher.tokens_per_s")
    )
    most = section.sampling.max_tokens * section.n
    expected = plan.prompts * (per_prompt if per_prompt is not None else most)
    told = (
        f"{per_prompt:,.0f} tokens a prompt, measured"
        if per_prompt is not None
        else f"at most {most:,} tokens a prompt"
    )
    if rate is None:
        yield (
            f"teacher: hours are not known: no rate was measured (answer a few prompts first: "
            f'SET="teacher.prompts.0.limit=500", or give teacher.tokens_per_s); {told}'
        )
    else:
        hours = expected / rate / 3600
        unit = "GPU-hours" if gpus else "machine-hours"
        told = f"{rate:,.0f} tokens/s a worker, {source}; {told}"
        yield f"teacher: about {hours * max(1, gpus):,.1f} {unit} ({told})"
    disk = (plan.tokens + expected * COPIES) * BYTES_PER_TOKEN
    yield f"teacher: about {disk / 1e9:,.1f} GB of disk"


def _rates(run: Run) -> list[dict[str, float]]:
    path = run.stage("teacher").path / "rates.jsonl"
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.is_file() else []
