"""BFCL's categories, how boards v3 and v4 weigh them, and intervals for what was measured on a sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from octupus.errors import ConfigError

SIZES = {
    "simple_python": 400,
    "simple_java": 100,
    "simple_javascript": 50,
    "multiple": 200,
    "parallel": 200,
    "parallel_multiple": 200,
    "irrelevance": 240,
    "live_simple": 258,
    "live_multiple": 1053,
    "live_parallel": 16,
    "live_parallel_multiple": 24,
    "live_irrelevance": 884,
    "live_relevance": 16,
    "multi_turn_base": 200,
    "multi_turn_miss_func": 200,
    "multi_turn_miss_param": 200,
    "multi_turn_long_context": 200,
    "memory_kv": 155,
    "memory_vector": 155,
    "memory_rec_sum": 155,
    "web_search_base": 100,
    "web_search_no_snippet": 100,
}
"""Scored entries of every category of bfcl-eval 2026.3.23."""

_all = list(SIZES)
GROUPS = {
    "non_live": _all[:7],
    "live": _all[7:13],
    "single_turn": _all[:13],
    "multi_turn": _all[13:17],
    "memory": _all[17:20],
    "web_search": _all[20:],
    "agentic": _all[17:],
    "all": _all,
}


def expand(categories: Mapping[str, int | None]) -> dict[str, int | None]:
    """Groups replaced by their categories, in the package's order; a category named itself beats its group.

    Raises:
        ConfigError: a name that is neither.
    """
    unknown = [name for name in categories if name not in SIZES and name not in GROUPS]
    if unknown:
        raise ConfigError(
            f"bfcl.categories: no category {unknown}; groups: {', '.join(GROUPS)}; one of: {', '.join(SIZES)}"
        )
    wanted = {member: count for name, count in categories.items() for member in GROUPS.get(name, ())}
    wanted |= {name: count for name, count in categories.items() if name in SIZES}
    return {name: wanted[name] for name in SIZES if name in wanted}


def wilson(correct: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson 95% interval of a share, as fractions; the whole range where nothing was measured."""
    if n == 0:
        return 0.0, 1.0
    p = correct / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


@dataclass(frozen=True)
class Mean:
    """A weighted mean of categories and of other means."""

    name: str
    parts: tuple[tuple[str | Mean, float], ...]

    def weights(self, has: Mapping[str, float] | None = None) -> dict[str, float]:
        """Each category's weight; with ``has``, missing categories hand theirs to their nearest measured relatives."""
        kept = [(part, w) for part, w in self.parts if has is None or _any(part, has)]
        total = sum(w for _, w in kept)
        flat: dict[str, float] = {}
        for part, w in kept:
            inner = part.weights(has) if isinstance(part, Mean) else {part: 1.0}
            flat |= {name: w / total * share for name, share in inner.items()}
        return flat


def _any(part: str | Mean, has: Mapping[str, float]) -> bool:
    return any(_any(inner, has) for inner, _ in part.parts) if isinstance(part, Mean) else part in has


def _even(name: str, *parts: str | Mean) -> Mean:
    return Mean(name, tuple((part, 1.0) for part in parts))


def _by_entries(name: str, parts: Sequence[str]) -> Mean:
    return Mean(name, tuple((part, float(SIZES[part])) for part in parts))


_SIMPLE = _even("Simple AST", "simple_python", "simple_java", "simple_javascript")
_AST = (_SIMPLE, "multiple", "parallel", "parallel_multiple")
NON_LIVE_AST = _even("Non-Live AST", *_AST)
LIVE_AST = _by_entries("Live AST", GROUPS["live"][:4])
MULTI_TURN = _even("Multi Turn", *GROUPS["multi_turn"])
IRRELEVANCE = _even("Irrelevance", "irrelevance", "live_irrelevance")
AGENTIC = _even("Agentic", _even("Web Search", *GROUPS["web_search"]), _even("Memory", *GROUPS["memory"]))
V4 = Mean("Overall v4", ((NON_LIVE_AST, 10), (LIVE_AST, 10), (IRRELEVANCE, 10), (MULTI_TURN, 30), (AGENTIC, 40)))
LIVE = _by_entries("Live", GROUPS["live"])
V3 = _even("Overall v3", _even("Non-Live", *_AST, "irrelevance"), LIVE, MULTI_TURN)
SUMMARIES = (V3, V4, NON_LIVE_AST, LIVE_AST, LIVE, IRRELEVANCE, MULTI_TURN, AGENTIC)


@dataclass(frozen=True)
class Overall:
    """A mean over what was measured; fractions. ``zeroed``: what it is when categories that were not run count zero."""

    value: float | None
    interval: tuple[float, float] | None
    zeroed: float
    covered: float
    missing: tuple[str, ...]


def overall(mean: Mean, accuracy: Mapping[str, float], n: Mapping[str, int]) -> Overall:
    """``mean`` of ``accuracy`` (fractions by category) with a normal 95% interval from ``n`` entries each."""
    full = mean.weights()
    missing = tuple(name for name in full if name not in accuracy)
    zeroed = sum(w * accuracy.get(name, 0.0) for name, w in full.items())
    covered = sum(w for name, w in full.items() if name in accuracy)
    if covered == 0:
        return Overall(None, None, 0.0, 0.0, missing)
    weights = mean.weights(accuracy)
    value = sum(w * accuracy[name] for name, w in weights.items())
    # Agresti-Coull's added entries keep the interval open where a small sample has nothing (or everything) right.
    shrunk = {name: (accuracy[name] * n[name] + 2) / (n[name] + 4) for name in weights}
    half = 1.96 * math.sqrt(sum(w * w * shrunk[k] * (1 - shrunk[k]) / (n[k] + 4) for k, w in weights.items()))
    return Overall(value, (max(0.0, value - half), min(1.0, value + half)), zeroed, covered, missing)
