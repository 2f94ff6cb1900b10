"""Verified trajectories by number: each is sampled, replayed in a fresh world, and only kept where nothing is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from random import Random
from typing import Literal, NamedTuple

from data_recipes.worlds.blueprint import Trajectory
from data_recipes.worlds.goals import Stuck
from data_recipes.worlds.registry import HELDOUT, TRAINING
from data_recipes.worlds.replay import judge
from data_recipes.worlds.sampler import KINDS, Kind, sample
from octupus.errors import ConfigError, DataError

Split = Literal["train", "heldout"]
SHARES: Mapping[str, float] = {
    "base": 36,
    "miss_func": 10,
    "miss_param": 12,
    "irrelevance": 12,
    "error": 8,
    "long": 6,
    "correction": 8,
    "no_call": 8,
}
"""Out of a hundred trajectories, where a recipe names no others."""
RETRIES = 20


class Order(NamedTuple):
    """What trajectories are wanted; hashable, so that workers can cache by it."""

    seed: int = 0
    split: Split = "train"
    shares: tuple[tuple[str, float], ...] = tuple(SHARES.items())
    easy: bool = False

    def kind(self, index: int) -> Kind:
        """The kind of a trajectory; decided before anything is sampled, so that no kind is dropped more than others."""
        kinds, weights = zip(*self.shares, strict=True)
        kind: Kind = Random(f"kind:{self.seed}:{index}").choices(kinds, weights)[0]
        return kind


def order(seed: int, split: Split, shares: Mapping[str, float] | None, easy: bool) -> Order:
    """An order with a recipe's values.

    Raises:
        ConfigError: a split or kind that does not exist, or no share above zero.
    """
    chosen = SHARES if shares is None else shares
    unknown = sorted(set(chosen) - set(KINDS))
    if unknown or sum(chosen.values()) <= 0 or min(chosen.values()) < 0:
        raise ConfigError(f"shares {dict(chosen)}: name some of {', '.join(KINDS)} with shares of at least 0")
    if split not in ("train", "heldout"):
        raise ConfigError(f"split {split!r}: choose train or heldout")
    return Order(seed, split, tuple(chosen.items()), easy)


@lru_cache(maxsize=8)
def produce(wanted: Order, index: int) -> tuple[Trajectory, tuple[str, ...]]:
    """The verified trajectory of that number, and why those before it were dropped.

    Raises:
        DataError: none in a bounded number of attempts.
    """
    worlds = TRAINING if wanted.split == "train" else HELDOUT
    rng = Random(f"world:{wanted.seed}:{index}")
    dropped: list[str] = []
    for attempt in range(RETRIES):
        world = worlds[rng.choice(list(worlds))]
        try:
            found = sample(world, wanted.kind(index), f"{wanted.seed}:{index}:{attempt}", worlds, wanted.easy)
        except Stuck as error:
            dropped.append(str(error).partition(" for seed")[0])
            continue
        verdict = judge(found.messages(), found)
        if verdict.right:
            return found, tuple(dropped)
        dropped.append(f"{found.kind}: {verdict.reasons[0]}")
    raise DataError(f"no verified trajectory: {dropped[-1]}")
