"""Cluster files, and the text that sbatch would get for each stage: golden, made without Slurm installed.

``python tests/unit/test_chain_cluster.py`` writes the golden files anew; read the difference before committing it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from octupus.config import Recipe
from octupus.errors import ConfigError
from slurm import cluster

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "sbatch"
STAGES = ("data", "stage1", "stage2", "serve", "bfcl", "score")
RECIPE = Recipe.model_validate(
    {
        "name": "big",
        "model": {"base": "Qwen/Qwen2.5-7B"},
        "stage1": {"nodes": 4, "global_batch": 128, "micro_batch": 4},
        "serve": {"tensor_parallel": 2},
    }
)


def text(stage: str) -> str:
    where = cluster.load("university", GOLDEN)
    environment = {"PYTHONPATH": "/shared/runs/big/code/0123456789ab"}
    dependency = "afterok:11:12" if stage == "stage1" else None
    parameters = cluster.slurm_parameters(where, RECIPE, stage, environment, dependency)
    return cluster.sbatch_text(where, parameters, Path(f"/shared/runs with a blank/big/{stage}/log"))


@pytest.mark.parametrize("stage", STAGES)
def test_the_text_for_sbatch_is_golden(stage: str) -> None:
    assert text(stage) == (GOLDEN / f"{stage}.sbatch").read_text(encoding="utf-8")


def test_every_job_asks_for_what_clusters_may_lack() -> None:
    for stage in STAGES:
        made = text(stage)
        assert "--kill-on-invalid-dep=yes" in made and "--kill-on-bad-exit=1" in made, stage
        assert "python -P -u -m submitit.core._submit" in made, "modules come from the snapshot"


def test_stages_differ_from_the_defaults_where_the_file_says_so() -> None:
    where = cluster.load("university", GOLDEN)
    assert (where.resources("data").partition, where.resources("stage1").partition) == ("cpu", "gpu")
    assert "gpus-per-node" not in text("data") and "--gpus-per-node=8" in text("stage1")
    assert "--nodes=4" in text("stage1") and "--ntasks-per-node=8" in text("stage1")


def test_local_is_the_default_and_is_this_machine() -> None:
    where = cluster.load("local")
    assert (where.executor, where.device) == ("local", "auto")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("executor: slrum\n", "executor: Input should be 'local' or 'slurm'"),
        ("partitoin: x\n", "unknown key; valid keys: defaults, device, env"),
        ("defaults: {partitoin: x}\n", "did you mean 'partition'"),
        ("stages: {stage9: {partition: x}}\n", "no such stage; there are: surgery, teacher"),
        ("stages: {stage1: {time: 3}}\n", "stages.stage1: time: unknown key"),
        ("a: [\n", "is not YAML"),
    ],
)
def test_a_wrong_cluster_file_is_a_sentence(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(ConfigError) as caught:
        cluster.load("x", tmp_path)
    assert words in str(caught.value)


def test_an_unknown_cluster_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose one of: local"):
        cluster.load("nowhere")


if __name__ == "__main__":
    for name in STAGES:
        (GOLDEN / f"{name}.sbatch").write_text(text(name), encoding="utf-8")
