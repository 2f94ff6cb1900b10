"""Is one run better than another? The same entries, pair by pair, with a bootstrap over entries."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.weights import SIZES, weights
from octupus.errors import ConfigError
from octupus.publish import read_json

RESAMPLES = 4000
MEAN = "Overall v3"
WORLDS = "worldbench"


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
    """By category and id, whether a run's main model got an entry right; a split of worldbench is a category of turns.

    Raises:
        ConfigError: the run has no scores.
    """
    scores = read_json(folder / "bfcl" / "scores.json")
    found: dict[str, dict[str, bool]] = {}
    main = None if scores is None else scores["main"]
    for entry in _rows(folder / "bfcl" / "entries.jsonl") if main is not None else ():
        if entry["model"] == main:
            found.setdefault(entry["category"], {})[entry["id"]] = entry["correct"]
    for turn in _rows(folder / "worldbench" / "turns.jsonl"):
        found.setdefault(f"{WORLDS} {turn['split']}", {})[turn["id"]] = turn["right"]
    if not found:
        name = folder.name
        raise ConfigError(f"{name} has no BFCL scores: make bfcl RUN={name}; nor any other: make worldbench RUN={name}")
    return found


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file; none where there is no file."""
    if path.is_file():
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def differences(first: Path, second: Path, seed: int = 0) -> list[Difference]:
    """The v3-style overall over BFCL's categories that both have, then each category, then worldbench's splits.

    Raises:
        ConfigError: a run without scores, or two that share no entry.
    """
    a, b = correct(first), correct(second)
    order = [*SIZES, *(c for c in a if c.startswith(WORLDS))]
    common = {c: sorted(a[c].keys() & b[c].keys()) for c in order if c in a and c in b}
    common = {category: ids for category, ids in common.items() if ids}
    if not common:
        raise ConfigError(f"{first.name} and {second.name} were asked no common entry of BFCL or worldbench")
    draw = np.random.default_rng(seed)
    found, means, moves = [], {}, {}
    for category, ids in common.items():
        pairs = np.array([[a[category][id], b[category][id]] for id in ids], float)
        picks = draw.integers(0, len(ids), (RESAMPLES, len(ids)))
        moves[category] = (pairs[:, 1] - pairs[:, 0])[picks].mean(axis=1)
        means[category] = pairs.mean(axis=0)
        found.append(_difference(category, len(ids), means[category], moves[category]))
    shared = {category: ids for category, ids in common.items() if category in SIZES}
    if not shared:
        return found
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
