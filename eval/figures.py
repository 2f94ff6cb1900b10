"""The report's smaller tables: throughput and GPU-hours, kinds of error, other runs, score over training steps."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.compare import differences
from octupus.config import Recipe
from octupus.errors import ConfigError
from octupus.publish import read_json
from octupus.runs import Run

KINDS = ("wrong function", "wrong argument", "missing call", "extra call", "cut call", "illegal call", "server error")
CHECKPOINTS = "bfcl/checkpoints.jsonl"
"""One line a checkpoint that was measured: stage, step, value and interval of the v3-style overall, entries."""


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def throughput(recipe: Recipe, run: Run) -> Iterator[dict[str, Any]]:
    """What each stage got done in a second, and its GPU-hours where its metrics tell of a GPU."""
    for name, section in (("stage1", recipe.stage1), ("stage2", recipe.stage2)):
        steps = rows_of(run.stage(name).metrics)
        if steps:
            warm = steps[2:] or steps
            mfu = [row["mfu"] for row in warm if row.get("mfu") is not None]
            hours = sum(row["seconds"] for row in steps if "seconds" in row) / 3600 * section.world_size
            yield {
                "name": name,
                "rate": statistics.median(row["tokens_per_s"] for row in warm),
                "unit": "tokens/s",
                "mfu": statistics.median(mfu) if mfu else None,
                "gpu_hours": hours if any("gpu_mib" in row for row in steps) else None,
            }
    scores = read_json(run.path / "bfcl/scores.json")
    states = [run.stage(f"bfcl/tasks/{path.name}").state() for path in sorted((run.path / "bfcl/tasks").glob("*"))]
    times = [(s.started_at, s.ended_at) for s in states if s is not None and s.started_at and s.ended_at]
    if scores and times and all(s is not None and s.attempt == 1 for s in states):
        seconds = max(end for _, end in times) - min(start for start, _ in times)
        categories = [c for m in scores["models"].values() for c in m["categories"].values()]
        tokens = sum(c["tokens_out"] for c in categories)
        yield {"name": "bfcl", "rate": tokens / seconds, "unit": "output tokens/s", "mfu": None, "gpu_hours": None}


def kinds(categories: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each category how many entries went wrong in which way; ways that never came are left out."""
    others = {kind for c in categories.values() for kind in c["kinds"]} - {*KINDS, "correct"}
    shown = [k for k in (*KINDS, *sorted(others)) if any(c["kinds"].get(k) for c in categories.values())]
    table = [
        {"name": name, "n": c["n"], "counts": {k: c["kinds"].get(k, 0) for k in shown}}
        for name, c in categories.items()
    ]
    return [row for row in table if any(row["counts"].values())]


def beside(recipe: Recipe, run: Run) -> list[dict[str, Any]]:
    """Other measured runs that the recipe names, each with the paired difference of this one to it."""
    found = []
    for name in recipe.bfcl.beside:
        other = run.path.parent / name
        scores = read_json(other / "bfcl/scores.json")
        if scores is None:
            continue
        try:
            overall = differences(other, run.path)[0]
        except ConfigError:
            continue  # no entry in common: nothing to say about them
        constraint = scores.get("constraint") or {"enforce": True}
        found.append(
            {
                "name": name,
                "constrained": constraint["enforce"],
                "summaries": scores["models"][scores["main"]]["summaries"],
                "difference": overall.second - overall.first,
                "interval": (overall.low, overall.high),
                "n": overall.n,
                "what": overall.name,
            }
        )
    return found


def steps(run: Run) -> list[dict[str, Any]]:
    """Scores of kept checkpoints by step, the last measurement of each."""
    newest = {(row["stage"], row["step"]): row for row in rows_of(run.path / CHECKPOINTS)}
    return [newest[key] for key in sorted(newest)]


def against(others: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each other run."""
    lines = []
    for other in others:
        low, high = other["interval"]
        word = "better than" if low > 0 else "worse than" if high < 0 else "not distinguishable from"
        how = "" if other["constrained"] else ", which ran without the constraint"
        move = f"{100 * other['difference']:+.1f} points, 95% interval {100 * low:+.1f} to {100 * high:+.1f}"
        lines.append(f"Entry by entry over {other['n']} entries it is {word} {other['name']}{how} ({move}).")
    return lines
