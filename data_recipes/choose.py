"""Which rows of a stage's sources are left out as a whole: near duplicates, and rows above a function's cap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octupus.config import DataStage
from octupus.data.near import NearDuplicates
from octupus.data.store import Store

EXAMPLES = 5


@dataclass(frozen=True)
class Chosen:
    """By source: what is left out (bool, one a row), and how many for which reason, with examples."""

    left_out: list[NDArray[np.bool_]]
    facts: list[dict[str, Any]]


def choose(stores: Sequence[Store], wanted: DataStage, threshold: float | None) -> Chosen:
    """Near duplicates within and across the sources, the earlier one stays; then the caps on what is left."""
    starts = np.cumsum([0, *map(len, stores)])
    twin = np.full(int(starts[-1]), -1, np.int64)
    if threshold is not None:
        twin = NearDuplicates([store.signatures for store in stores]).find(threshold)
        same = np.concatenate([store.column("identities") for store in stores])
        twin[same == same[twin]] = -1  # equal rows of two sources are not nearly equal: mixing counts them
    chosen = Chosen([], [])
    for number, store in enumerate(stores):
        mine = twin[starts[number] : starts[number + 1]]
        out = mine >= 0
        examples = []
        for row in np.flatnonzero(out)[:EXAMPLES].tolist():
            source = int(np.searchsorted(starts, mine[row], side="right")) - 1
            other = stores[source][int(mine[row] - starts[source])]["id"]
            examples.append([store[row]["id"], f"{stores[source].report['source']} row {other}"])
        over = np.zeros(len(store), np.bool_)
        cap = wanted.sources[number].max_per_function or wanted.balance.max_per_function
        if cap is not None:
            over = above_cap(store, ~out, cap, wanted.seed)
        facts = {"near_duplicates": {"count": int(out.sum()), "examples": examples}, "over_the_cap": int(over.sum())}
        chosen.left_out.append(out | over)
        chosen.facts.append(facts)
    return chosen


def above_cap(store: Store, candidates: NDArray[np.bool_], cap: int, seed: int) -> NDArray[np.bool_]:
    """Rows that call a function which ``cap`` other rows call already; rows are taken in a seeded order."""
    over = np.zeros(len(store), np.bool_)
    seen: Counter[str] = Counter()
    rows = np.flatnonzero(candidates)
    for row in np.random.Generator(np.random.PCG64(seed)).permutation(rows).tolist():
        messages = store[row]["conversation"]["messages"]
        called = {call["name"] for message in messages for call in message.get("tool_calls", ())}
        if any(seen[name] >= cap for name in called):
            over[row] = True
        else:
            seen.update(called)
    return over
