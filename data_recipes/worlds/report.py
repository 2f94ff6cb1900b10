"""How different trajectories are from each other: worlds, functions, call graphs, lengths, wording, near duplicates."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_recipes.worlds.blueprint import Trajectory

_VALUE = re.compile(r"“[^”]*”|\"[^\"]*\"|《[^》]*》|[A-Z]{2}-\d+|[\d.:-]*\d")


@dataclass
class Tally:
    """Counts over trajectories; two of them add up."""

    counts: dict[str, Counter[Any]] = field(default_factory=dict)
    distinct: dict[str, set[int]] = field(default_factory=dict)
    numbers: Counter[str] = field(default_factory=Counter)

    def add(self, trajectory: Trajectory, dropped: Sequence[str]) -> None:
        """Count one verified trajectory."""
        t, calls = trajectory, [[c for m in turn.messages for c in m.tool_calls] for turn in trajectory.turns]
        graph = tuple(tuple(tuple(c.name for c in m.tool_calls) for m in turn.messages) for turn in t.turns)
        users = [turn.user for turn in t.turns]
        self.numbers.update(trajectories=1, turns=len(users), calls=sum(map(len, calls)), dropped=len(dropped))
        self.numbers["messages with parallel calls"] += sum(len(m.tool_calls) > 1 for m in t.messages())
        keyed: dict[str, Iterable[Any]] = {
            "kinds": [t.kind],
            "worlds": [t.world.NAME],
            "languages": ["zh" if t.zh else "en"],
            "turns a trajectory": [len(users)],
            "calls a turn": map(len, calls),
            "tools on offer": [len(turn.offered) for turn in t.turns[-1:]],
            "functions": [f"{t.world.NAME}.{c.name}" for turn in calls for c in turn],
            "dropped because": [re.sub(r"[A-Z]{2}-\d+|\d+", "#", reason)[:60] for reason in dropped],
        }
        for name, keys in keyed.items():
            self.counts.setdefault(name, Counter()).update(keys)
        hashed: dict[str, list[Any]] = {
            "call graphs": [graph],
            "user turns": users,
            "user turns without their values": [_VALUE.sub("_", user) for user in users],
            "first user turns": users[:1],
        }
        for name, values in hashed.items():
            self.distinct.setdefault(name, set()).update(map(hash, values))

    def join(self, other: Tally) -> None:
        for name, counter in other.counts.items():
            self.counts.setdefault(name, Counter()).update(counter)
        for name, values in other.distinct.items():
            self.distinct.setdefault(name, set()).update(values)
        self.numbers.update(other.numbers)

    def report(self) -> dict[str, Any]:
        """As JSON."""
        counts = {name: dict(sorted(c.items(), key=_rank)) for name, c in self.counts.items() if name != "functions"}
        functions = self.counts.get("functions", Counter())
        rarest = functions.most_common()[-1:] or [("", 0)]
        return {
            **self.numbers,
            **counts,
            "functions called": len(functions),
            "rarest function": {rarest[0][0]: rarest[0][1]},
            "distinct": {name: len(values) for name, values in self.distinct.items()},
        }

    def apart(self, shares: Mapping[str, float]) -> float:
        """How many points the kinds are off their shares, at most."""
        kinds, total = self.counts["kinds"], sum(shares.values())
        off = [100 * abs(kinds[k] / kinds.total() - share / total) for k, share in shares.items()]
        return max(off)


def _rank(item: tuple[Any, int]) -> tuple[int, Any]:
    return (0, item[0]) if isinstance(item[0], int) else (-item[1], 0)
