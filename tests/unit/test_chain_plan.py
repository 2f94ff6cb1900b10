"""What the chain decides before anything runs: order, reuse, changed inputs, what is never run unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from octupus.config import Recipe
from octupus.errors import ConfigError
from octupus.runs import Run, StageState
from slurm import chain
from slurm.chain import CHAIN, Planned

VALUES: dict[str, Any] = {
    "name": "x",
    "model": {"scratch": {}},
    "data": {"stage1": {"sources": [{"name": "teacher_answers"}]}, "heldout": [{"name": "y"}]},
}


def recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate({**VALUES, **changes})


def finish(run: Run, planned: list[Planned]) -> None:
    for p in planned:
        run.stage(p.name).set_state(StageState(status="done", inputs=p.inputs))


def doing(planned: list[Planned]) -> dict[str, str]:
    return {p.name: p.action for p in planned}


def test_the_steps_stand_in_an_order_in_which_they_can_be_run() -> None:
    seen: set[str] = set()
    for step in CHAIN:
        assert seen >= {*step.after, *step.beside}, step.name
        seen.add(step.name)


def test_a_new_run_does_everything_and_a_finished_one_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    first = chain.plan(recipe(), run)
    assert [p.name for p in first] == [step.name for step in CHAIN]
    assert set(doing(first).values()) == {"run"}
    finish(run, first)
    second = chain.plan(recipe(), run)
    assert set(doing(second).values()) == {"reuse"}
    assert "serve" not in doing(second), "no server for nobody"


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"stage2": {"lr": 1e-3}}, {"stage2", "serve", "bfcl", "score", "report"}),
        ({"stage1": {"lr": 1e-3}}, {"stage1", "stage2", "serve", "bfcl", "score", "report"}),
        ({"bfcl": {"seed": 1}}, {"serve", "bfcl", "score", "report"}),
        ({"serve": {"port": 1234}}, set()),
        ({"wire": {"system": "other"}}, {step.name for step in CHAIN} - {"teacher", "merge"}),
    ],
)
def test_what_changed_runs_again_with_everything_after_it(tmp_path: Path, change: dict, again: set[str]) -> None:
    run = Run(tmp_path)
    finish(run, chain.plan(recipe(), run))
    planned = chain.plan(recipe(**change), run)
    assert {p.name for p in planned if p.action == "run"} == again
    ran = [p for p in planned if p.action == "run" and p.name != "serve"]
    assert all("inputs have changed" in p.why for p in ran)
    assert {p.name for p in ran if not p.discard} <= {"bfcl"}, "it knows itself which answers are stale"


def test_a_value_spelled_out_that_is_the_default_changes_nothing(tmp_path: Path) -> None:
    steps = chain.chain_of(recipe())
    assert chain.input_hashes(recipe(stage1={"lr": 2e-5}), steps) == chain.input_hashes(recipe(), steps)


def test_what_was_cut_off_goes_on_and_its_folder_is_kept(tmp_path: Path) -> None:
    run = Run(tmp_path)
    planned = chain.plan(recipe(), run)
    finish(run, planned[:5])
    assert planned[5].name == "stage1"
    run.stage("stage1").set_state(StageState(status="failed", inputs=planned[5].inputs, reason="killed"))
    found = {p.name: p for p in chain.plan(recipe(), run)}
    assert (found["stage1"].action, found["stage1"].discard) == ("run", False)
    assert found["data"].action == "reuse"


def test_fresh_starts_over_from_the_goal_on(tmp_path: Path) -> None:
    run = Run(tmp_path)
    finish(run, chain.plan(recipe(), run))
    assert set(doing(chain.plan(recipe(), run, fresh=True)).values()) == {"run"}
    assert doing(chain.plan(recipe(), run, ["stage1"], fresh=True)) == {
        **{"surgery": "reuse", "teacher": "reuse", "merge": "reuse", "data": "reuse"},
        "stage1": "run",
    }


def test_one_goal_brings_what_it_waits_for(tmp_path: Path) -> None:
    values = {**VALUES, "data": {}}
    planned = chain.plan(Recipe.model_validate(values), Run(tmp_path), ["stage2"])
    assert [p.name for p in planned] == ["surgery", "data", "stage1", "stage2"]
    assert planned[1].step.after == ("surgery",), "this recipe's data need no teacher"


def test_bfcl_alone_takes_the_model_that_is_there_and_a_server(tmp_path: Path) -> None:
    assert [p.name for p in chain.plan(recipe(), Run(tmp_path), ["bfcl"])] == ["serve", "bfcl"]
    assert [p.name for p in chain.plan(recipe(), Run(tmp_path), ["serve"])] == ["serve"]
    assert [p.name for p in chain.plan(recipe(), Run(tmp_path), ["report"])] == ["report"]


def test_the_teacher_never_runs_unasked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="make teacher RECIPE=x"):
        chain.plan(recipe(), Run(tmp_path), ["stage1"])
    assert "teacher" in doing(chain.plan(recipe(), Run(tmp_path), ["teacher", "data"]))


def test_a_teacher_that_no_data_read_runs_when_asked_and_changes_nothing_else(tmp_path: Path) -> None:
    prompts = {"teacher": {"prompts": [{"name": "x"}]}, "data": {}}
    apart, run = recipe(**prompts), Run(tmp_path)
    assert not {"teacher", "merge"} & set(doing(chain.plan(apart, run)))
    finish(run, chain.plan(apart, run))
    both = chain.plan(apart, run, ["teacher", "merge", "data"])
    assert doing(both) == {"surgery": "reuse", "teacher": "run", "merge": "run", "data": "reuse"}
    assert both[2].step.after == ("teacher",) and "merge" not in both[3].step.after
    with pytest.raises(ConfigError, match="no stage teacher"):
        chain.plan(recipe(data={}), run, ["teacher"])


def test_more_workers_make_nothing_stale(tmp_path: Path) -> None:
    run = Run(tmp_path)
    finish(run, chain.plan(recipe(), run))
    assert set(doing(chain.plan(recipe(teacher={"workers": 4, "tokens_per_s": 9.0}), run)).values()) == {"reuse"}


def test_a_stage_that_the_recipe_does_not_have_is_named_with_those_it_has(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no stage nonsense; it has: surgery, teacher, merge, data"):
        chain.plan(recipe(), Run(tmp_path), ["nonsense"])


def test_results_of_other_inputs_are_put_aside_with_what_they_left_elsewhere(tmp_path: Path) -> None:
    run, step = Run(tmp_path), next(s for s in CHAIN if s.name == "baseline")
    for name in ("baseline/x", "heldout/before.json", "heldout/after.json"):
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_text(name)
    chain.put_aside(run, step)
    assert (run.path / "baseline.replaced/x").read_text() == "baseline/x" and not (run.path / "baseline").exists()
    assert not (run.path / "heldout/before.json").exists() and (run.path / "heldout/after.json").exists()
