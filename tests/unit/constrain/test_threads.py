"""One constraint, many threads: what is shared is built once and never half."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

from octupus.constrain import Constraint, Vocabulary
from octupus.constrain.automaton import Automaton, State
from octupus.constrain.grammar import Grammar
from octupus.constrain.kept import Kept
from tests.support.tiny import tiny_dialect
from tests.unit.constrain.setting import byte_vocabulary
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


def test_who_makes_the_same_a_second_time_goes_on_with_the_first_and_drops_their_own() -> None:
    dropped: list[str] = []
    kept: Kept[str] = Kept(8, 1_000, len, dropped.append)
    assert kept.put("key", "first") == "first" and dropped == []
    assert kept.put("key", "other") == "first" and dropped == ["other"]
    assert kept.get("key") == "first" and kept.bytes == 5 and len(kept) == 1


def test_of_automata_made_at_the_same_time_one_is_kept_and_no_other_is_left() -> None:
    constraint, together = Constraint(byte_vocabulary()), threading.Barrier(4)
    plan = constraint.plan({"type": "object", "properties": {"a": {"$ref": "#"}}})

    def make() -> Automaton:
        together.wait()
        return Automaton(Grammar(plan.node, "", "", constraint._shared, any_space=False), constraint._shared)

    def begin() -> State:
        return constraint._automaton("same", make).start

    with ThreadPoolExecutor(4) as pool:
        begun = [task.result() for task in [pool.submit(begin) for _ in range(4)]]
    assert len(set(begun)) == 1
    opened = begun[0].advance(ord("{"))
    assert opened is not None and opened.advance(ord("}")) is not None
