"""Figures of docs/experiments.md: a small model with and without the simulated worlds, on the same number of steps.

Each seed trains both recipes and measures them on worldbench's held-out worlds, turn by turn, and (teacher-forced) by
exact calls. Pairs are the same turn of two models of one seed: McNemar's exact test for success, a one-sided 95% bound
for the loss on irrelevance. The last line is one JSON object; runs that are there are not trained again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval import heldout, worldbench
from eval.compare import correct
from eval.endpoint import wait_for
from octupus import config
from octupus.runs import Run
from slurm.beside import serve_command, served
from slurm.submit import run_named

ARMS = ("ablate-noworlds", "ablate")
SEEDED = ("model.scratch.seed", "stage1.seed", "stage2.seed")


def train(arm: str, seed: int, more: Sequence[str]) -> Run:
    """The chain up to stage 2; what is finished is not done again."""
    run = run_named(f"{arm}-s{seed}")
    words = " ".join([*(f"{path}={seed}" for path in SEEDED), *more])
    environment = {**os.environ, "RECIPE": arm, "RUN": run.name, "SET": words}
    subprocess.run([sys.executable, "-m", "slurm.submit", "stage", "stage2"], env=environment, check=True)
    return run


def measure(run: Run, arm: str, sizes: Mapping[str, int]) -> dict[str, Any]:
    """worldbench and exact calls of a trained run."""
    recipe = config.load(arm)
    command = serve_command(recipe.serve, run.path / "stage2/export", run)
    with served(command, run, "0", run.path / "server.out", 300):
        server = wait_for(run, recipe.serve)
        found = worldbench.run(server.base_url, server.api_key, "any", run.path / "worldbench", sizes)
        exact = heldout.run(recipe, run, "after")
    return {"worldbench": found["turns"], "exact": exact["exact"], "no_call": exact["no_call"]}


def mcnemar(pairs: Sequence[tuple[bool, bool]]) -> dict[str, float]:
    """Pairs of which only the second, only the first is right, and the exact two-sided p."""
    gained, lost = sum(b and not a for a, b in pairs), sum(a and not b for a, b in pairs)
    n, k = gained + lost, min(gained, lost)
    p = min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)
    return {"n": len(pairs), "gained": gained, "lost": lost, "p": p}


def bound(pairs: Sequence[tuple[bool, bool]]) -> dict[str, float]:
    """Second minus first in points, and below what it lies not (one-sided 95%)."""
    moves = [b - a for a, b in pairs]
    mean = sum(moves) / len(moves)
    error = math.sqrt(sum((m - mean) ** 2 for m in moves) / (len(moves) - 1) / len(moves))
    return {"n": len(moves), "points": 100 * mean, "not below": 100 * (mean - 1.6449 * error)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--n", type=int, default=1000, help="conversations of each split")
    parser.add_argument("--set", nargs="*", default=[], metavar="path=value")
    chosen = parser.parse_args()
    began, sizes = time.monotonic(), {"easy": chosen.n, "irrelevance": chosen.n}
    found: dict[str, Any] = {}
    right: dict[str, list[tuple[bool, bool]]] = {split: [] for split in sizes}
    for seed in range(chosen.seeds):
        folders: list[Path] = []
        for arm in ARMS:
            run = train(arm, seed, chosen.set)
            folders.append(run.path)
            found[run.name] = measure(run, arm, sizes)
            print(json.dumps({run.name: found[run.name]}), flush=True)
        first, second = map(correct, folders)
        for split, pairs in right.items():
            a, b = first[f"worldbench {split}"], second[f"worldbench {split}"]
            pairs += [(a[id], b[id]) for id in sorted(a)]
    outcome = {"easy turns": mcnemar(right["easy"]), "irrelevance": bound(right["irrelevance"])}
    print(json.dumps({**outcome, "runs": found, "seconds": round(time.monotonic() - began)}))


if __name__ == "__main__":
    main()
