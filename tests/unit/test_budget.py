"""What a run may cost: a plan that is likely to need more is refused, and so is anything more once it is spent."""

from __future__ import annotations

from pathlib import Path

import pytest

from octupus import config
from octupus.config import BudgetSection, Recipe
from octupus.errors import ConfigError
from octupus.publish import publish_json
from octupus.runs import Run
from slurm import budget
from slurm.cluster import Cluster


@pytest.fixture
def recipe() -> Recipe:
    return config.load("v2", ["budget.gpu_hours=100"])


def cluster(limit: float | None = None, **defaults: object) -> Cluster:
    values = {"gres": "gpu:h100:8", "time_min": 120, **defaults}
    stages = {"data": {"gres": None, "gpus": 0}}
    made = {"name": "c", "executor": "slurm", "device": "cuda", "defaults": values, "stages": stages}
    return Cluster.model_validate({**made, "budget": {"gpu_hours": limit}})


def test_before_the_data_is_built_a_stage_counts_with_its_time_limit(recipe: Recipe, tmp_path: Path) -> None:
    run = Run(tmp_path)
    budget.afford(recipe, run, cluster(), ["data", "stage1"])  # 4 nodes x 8 GPUs x 2 h = 64
    with pytest.raises(ConfigError, match=r"128\.0 GPU-hours of the 100\.0 .*stage1 64.0 \(its time limit of 2 h\)"):
        budget.afford(recipe, run, cluster(), ["data", "stage1"], spent=64)
    with pytest.raises(ConfigError, match=r'SET="budget.gpu_hours=128"'):
        budget.afford(recipe, run, cluster(), ["stage1"], spent=64)
    with pytest.raises(ConfigError, match=r"128\.0 GPU-hours"):
        list(budget.check(recipe, run, cluster(time_min=240), ["stage1"]))


def test_with_data_the_estimate_counts_in_place_of_the_time_limit(recipe: Recipe, tmp_path: Path) -> None:
    run = Run(tmp_path)
    publish_json(run.stage("data").path / "stage1" / "manifest.json", {"rows": 1280})
    budget.afford(recipe, run, cluster(time_min=10_000), ["data", "stage1"])
    publish_json(run.stage("data").path / "stage1" / "manifest.json", {"rows": 12_800_000})
    with pytest.raises(ConfigError, match=r"stage1 [\d,.]+ \(estimated for 200,000 steps\)"):
        budget.afford(recipe, run, cluster(), ["stage1"])


def test_the_smaller_of_both_limits_counts_and_none_is_no_limit(recipe: Recipe, tmp_path: Path) -> None:
    free = recipe.model_copy(update={"budget": BudgetSection()})
    budget.afford(free, Run(tmp_path), cluster(), ["stage1"], spent=1e6)
    with pytest.raises(ConfigError, match=r"of the 50.0 .* and in cluster 'c'"):
        budget.afford(recipe, Run(tmp_path), cluster(50), ["stage1"])


def test_when_it_is_spent_nothing_is_started_again(recipe: Recipe, tmp_path: Path) -> None:
    budget.afford(recipe, Run(tmp_path), cluster(), [], spent=99.9)
    with pytest.raises(ConfigError, match=r"100.0 spent"):
        budget.afford(recipe, Run(tmp_path), cluster(), [], spent=100)


def test_what_a_job_has_used(recipe: Recipe) -> None:
    assert budget.used(recipe, cluster(), "stage1", 1800) == 4 * 8 * 0.5
    assert budget.used(recipe, cluster(), "data", 1800) == 0
    assert budget.used(recipe, Cluster(name="c", device="cpu"), "stage1", 1800) == 0
