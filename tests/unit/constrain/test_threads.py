"""One constraint, many threads: what is shared is built once and never half."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

from octupus.constrain import Constraint, Vocabulary
from tests.support.tiny import tiny_dialect
from tests.unit.constrain.walk import judge, walk


def test_walks_in_many_threads_are_those_of_one() -> None:
    wire = tiny_dialect("octupus")

    def walks(constraint: Constraint, seeds: range) -> list[list[int] | None]:
        return [walk(wire, constraint, random.Random(seed), limit=150) for seed in seeds]

    alone = walks(Constraint(Vocabulary.from_tokenizer(wire.tokenizer)), range(24))
    shared = Constraint(Vocabulary.from_tokenizer(wire.tokenizer))
    with ThreadPoolExecutor(8) as pool:
        parts = [pool.submit(walks, shared, range(first, first + 3)) for first in range(0, 24, 3)]
        together = [ids for part in parts for ids in part.result()]
    assert together == alone
    for ids in together:
        if ids is not None:
            judge(wire, ids)
