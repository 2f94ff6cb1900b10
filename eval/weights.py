"""How boards v3 and v4 weigh BFCL's categories (values in weights.yaml), and intervals for samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from octupus.errors import ConfigError

_VALUES = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
SIZES: dict[str, int] = _VALUES["sizes"]
"""Scored entries of every category."""
MEANS: dict[str, dict[str, float]] = _VALUES["means"]
"""Parts and weights of each summary; a part is a category or another mean."""
GROUPS: dict[str, list[str]] = _VALUES["groups"]
TASK_GROUPS = tuple(GROUPS)
GROUPS |= {
    "single_turn": GROUPS["non_live"] + GROUPS["live"],
    "agentic": GROUPS["memory"] + GROUPS["web_search"],
    "all": list(SIZES),
}


def expand(categories: Mapping[str, int | None]) -> dict[str, int | None]:
    """Groups replaced by their categories, in the package's order; a category named itself beats its group.

    Raises:
        ConfigError: a name that is neither.
    """
    unknown = ", ".join(name for name in categories if name not in SIZES and name not in GROUPS)
    if unknown:
        raise ConfigError(f"bfcl.categories: no category {unknown}; choose of {', '.join([*GROUPS, *SIZES])}")
    wanted = {member: count for name, count in categories.items() for member in GROUPS.get(name, ())}
    wanted |= {name: count for name, count in categories.items() if name in SIZES}
    return {name: wanted[name] for name in SIZES if name in wanted}


def tasks(categories: Mapping[str, int | None]) -> list[str]:
    """The groups that hold a wanted category: one task each, so that no two write one file."""
    wanted = expand(categories)
    return [group for group in TASK_GROUPS if wanted.keys() & set(GROUPS[group])]


def wilson(correct: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson 95% interval of a share, as fractions; the whole range where nothing was measured."""
    if n == 0:
        return 0.0, 1.0
    p, spread = correct / n, z * z / n
    half = z * math.sqrt(p * (1 - p) / n + spread / (4 * n))
    return max(0.0, (p + spread / 2 - half) / (1 + spread)), min(1.0, (p + spread / 2 + half) / (1 + spread))


def weights(mean: str, has: Mapping[str, float] | None = None) -> dict[str, float]:
    """Each category's share in a mean; with ``has``, what is missing hands its share to its nearest relatives."""
    if mean not in MEANS:
        return {mean: 1.0} if has is None or mean in has else {}
    parts = [(weights(part, has), weight) for part, weight in MEANS[mean].items()]
    total = sum(weight for inner, weight in parts if inner)
    return {name: share * weight / total for inner, weight in parts for name, share in inner.items()}


def overall(mean: str, accuracy: Mapping[str, float], n: Mapping[str, int]) -> dict[str, Any]:
    """A mean of ``accuracy`` (fractions) over what was measured, with a normal 95% interval from ``n`` entries each.

    ``covered``: how much of its weight was measured; ``zeroed``: its value when the rest counts zero.
    """
    full, part = weights(mean), weights(mean, accuracy)
    # Agresti-Coull's added entries keep the interval open where a small sample has nothing (or everything) right.
    shrunk = {name: (accuracy[name] * n[name] + 2) / (n[name] + 4) for name in part}
    half = 1.96 * math.sqrt(sum(w * w * shrunk[k] * (1 - shrunk[k]) / (n[k] + 4) for k, w in part.items()))
    value = sum(w * accuracy[name] for name, w in part.items()) if part else None
    return {
        "value": value,
        "interval": None if value is None else (max(0.0, value - half), min(1.0, value + half)),
        "covered": sum(w for name, w in full.items() if name in accuracy),
        "zeroed": sum(w * accuracy.get(name, 0.0) for name, w in full.items()),
        "missing": [name for name in full if name not in accuracy],
    }
