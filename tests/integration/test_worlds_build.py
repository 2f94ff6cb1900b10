"""Trajectories through the data stage: two rows where a tool joins, and what is only shown stays unsupervised."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from data_recipes.build import run as build
from data_recipes.sources import worlds
from octupus.config import Recipe
from octupus.data import Shards
from tests.support.recipes import recipe, run_folder
from tests.support.tiny import tiny_wire


def suite(**options: object) -> Recipe:
    source = {"name": "worlds", "options": {"n": 4, "seed": 8, "shares": {"miss_func": 1}, **options}}
    stage = {"context": 16384, "sources": [source]}
    return recipe(data={"decontaminate": False, "near_duplicates": None, "stage2": stage})


def test_the_shards_hold_what_is_learned_and_what_is_shown(tmp_path: Path) -> None:
    run, wire = run_folder(tmp_path / "run"), tiny_wire()
    assert build(suite(), run, ["stage2"])["stage2"]["documents"] == 8
    rows = list(worlds.rows(None, n=4, seed=8, shares={"miss_func": 1}))
    wanted = [wire.render(worlds.to_conversation(row)) for row in rows]
    documents = [document for row in Shards(run.path / "data/stage2") for document in row.documents()]
    stored = [(tuple(ids.tolist()), sum(mask.tolist())) for ids, mask in documents]
    assert Counter(ids for ids, _ in stored) == Counter(tuple(r.ids) for r in wanted)
    supervised = {tuple(r.ids): sum(r.mask) for r in wanted}
    assert all(supervised[ids] == count for ids, count in stored)
