"""Is one run better than another? The same entries, pair by pair, with a bootstrap over entries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.weights import SIZES, weights
from octupus.errors import ConfigError
from octupus.runs import read_json

RESAMPLES = 4000
MEAN = "Overall v3"


@dataclass(frozen=True)
class Difference:
    """Second minus first, as fractions, with its 95% interval; ``n`` entries that both were asked."""

    name: str
    n: int
    first: float
    second: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        return self.low > 0 or self.high < 0


def correct(folder: Path) -> dict[str, dict[str, bool]]:
    """By category and id, whether a run's main model got an entry right.

    Raises:
        ConfigError: the run has no scores.
    """
    scores = read_json(folder / "bfcl" / "scores.json")
    if scores is None:
        raise ConfigError(f"{folder.name} has no BFCL scores: make bfcl RUN={folder.name}")
    found: dict[str, dict[str, bool]] = {}
    for line in (folder / "bfcl" / "entries.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["model"] == scores["main"]:
            found.setdefault(entry["category"], {})[entry["id"]] = entry["correct"]
    return found


def differences(first: Path, second: Path, seed: int = 0) -> list[Difference]:
    """The v3-style overall over the categories that both have, then each category.

    Raises:
        ConfigError: a run without scores, or two that share no entry.
    """
    a, b = correct(first), correct(second)
    shared = {c: sorted(a[c].keys() & b[c].keys()) for c in SIZES if c in a and c in b}
    shared = {category: ids for category, ids in shared.items() if ids}
    if not shared:
        raise ConfigError(f"{first.name} and {second.name} were asked no common entry of BFCL")
    draw = np.random.default_rng(seed)
    found, means, moves = [], {}, {}
    for category, ids in shared.items():
        pairs = np.array([[a[category][id], b[category][id]] for id in ids], float)
        picks = draw.integers(0, len(ids), (RESAMPLES, len(ids)))
        moves[category] = (pairs[:, 1] - pairs[:, 0])[picks].mean(axis=1)
        means[category] = pairs.mean(axis=0)
        found.append(_difference(category, len(ids), means[category], moves[category]))
    share = weights(MEAN, dict.fromkeys(shared, 0.0)) or {c: 1 / len(shared) for c in shared}
    whole = sum(means[c] * w for c, w in share.items())
    moved = sum(moves[c] * w for c, w in share.items())
    name = MEAN if set(share) == set(weights(MEAN)) else f"{MEAN} (of {len(share)} categories)"
    total = sum(len(shared[c]) for c in share)
    return [_difference(name, total, np.asarray(whole), np.asarray(moved)), *found]


def _difference(name: str, n: int, means: np.ndarray, moves: np.ndarray) -> Difference:
    low, high = np.percentile(moves, [2.5, 97.5])
    return Difference(name, n, float(means[0]), float(means[1]), float(low), float(high))


def table(first: str, second: str, found: Sequence[Difference]) -> str:
    """Lines for a terminal."""
    lines = [f"{'':34}{'n':>6}{first[:14]:>16}{second[:14]:>16}  difference (95%)"]
    for d in found:
        move = f"{100 * (d.second - d.first):+.2f} ({100 * d.low:+.2f} to {100 * d.high:+.2f})"
        lines.append(
            f"{d.name:34}{d.n:6}{100 * d.first:15.2f}%{100 * d.second:15.2f}%  {move}{' *' if d.significant else ''}"
        )
    return "\n".join([*lines, "* zero lies outside the interval"])


def compare(folders: Mapping[str, Path], gate: str = "") -> tuple[str, list[str]]:
    """The tables of every run against the first one, and the runs that are significantly worse than ``gate``.

    Raises:
        ConfigError: fewer than two runs, or a gate that is none of them.
    """
    if len(folders) < 2:
        raise ConfigError('RUNS needs two runs or more: make compare RUNS="a b"')
    if gate and gate not in folders:
        raise ConfigError(f"GATE={gate} is none of RUNS ({', '.join(folders)})")
    base, *others = folders
    tables = [table(base, other, differences(folders[base], folders[other])) for other in others]
    worse = [n for n in folders if gate and n != gate and differences(folders[gate], folders[n])[0].high < 0]
    return "\n\n".join(tables), worse
