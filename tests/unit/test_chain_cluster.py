"""Cluster files, and the text that sbatch would get for each stage: golden, made without Slurm installed.

``python -m tests.unit.test_chain_cluster`` writes the golden files anew; read the difference before committing it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from octupus.config import Recipe
from octupus.errors import ConfigError
from slurm import chain, cluster
from slurm.cluster import KEEPER, Cluster

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "sbatch"
NAMES = sorted(p.stem for p in cluster.CLUSTERS.glob("*.yaml") if p.stem != "local")
STAGES = [*(step.name for step in chain.CHAIN), KEEPER]
RECIPE = Recipe.model_validate(
    {
        "name": "big",
        "model": {"base": "Qwen/Qwen2.5-7B"},
        "stage1": {"nodes": 4, "global_batch": 128, "micro_batch": 4},
        "serve": {"tensor_parallel": 2},
        "bfcl": {"categories": {"non_live": None, "live": None, "multi_turn": None, "agentic": None}},
        "teacher": {"engine_args": {"tensor_parallel_size": 4}},
    }
)


def text(where: Cluster, stage: str) -> str:
    environment = {"PYTHONPATH": "/shared/运行/big/code/0123456789ab"}
    dependency = "afterok:11:12" if stage == "stage1" else None
    parameters = cluster.slurm_parameters(where, RECIPE, stage, environment, dependency)
    return cluster.sbatch_text(where, parameters, Path(f"/shared/runs with a blank/运行/{stage}/log"))


def texts(name: str) -> str:
    """All stages of one cluster file, under the interpreter of a checkout whose path holds blanks."""
    where = cluster.load(name)
    return "".join(f"#### {stage}\n{text(where, stage)}\n" for stage in STAGES)


@pytest.fixture
def without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/shared/octupus tool call/.venv/bin/python")


@pytest.mark.parametrize("name", NAMES)
def test_the_texts_for_sbatch_are_golden(name: str, without_slurm: None) -> None:
    assert texts(name) == (GOLDEN / f"{name}.sbatch").read_text(encoding="utf-8")


def test_there_is_a_golden_text_for_each_cluster_file_and_stage() -> None:
    assert [p.stem for p in sorted(GOLDEN.glob("*.sbatch"))] == NAMES
    for name in NAMES:
        found = (GOLDEN / f"{name}.sbatch").read_text(encoding="utf-8").splitlines()
        assert [line[5:] for line in found if line.startswith("#### ")] == STAGES, name


@pytest.mark.parametrize("name", NAMES)
def test_every_job_asks_for_what_clusters_may_lack(name: str) -> None:
    for stage in STAGES:
        made = text(cluster.load(name), stage)
        assert "--kill-on-invalid-dep=yes" in made and "--kill-on-bad-exit=1" in made, stage
        assert " -P -u -m submitit.core._submit" in made, "modules come from the snapshot"


def test_stages_differ_from_the_defaults_where_the_file_says_so() -> None:
    where = cluster.load("example-modules")
    assert (where.resources("data").partition, where.resources("stage1").partition) == ("cpu", "gpu")
    assert (where.resources(KEEPER).partition, where.resources(KEEPER).account) == ("cpu", "nlp")
    assert "gres" not in text(where, "data") and "--gres=gpu:h100:8" in text(where, "stage1")
    assert "--nodes=4" in text(where, "stage1") and "--ntasks-per-node=8" in text(where, "stage1")
    assert "--no-requeue" in text(where, "data") and "#SBATCH --array=0-" in text(where, "bfcl")
    assert "SRUN_CPUS_PER_TASK=32" in text(where, "data")
    assert Cluster(name="x", keeper={"partition": "tiny"}).resources(KEEPER).partition == "tiny"


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ({}, 8),
        ({"gpus": 4}, 4),
        ({"gres": "gpu:h100:2"}, 2),
        ({"gres": "gpu:3,nvme:100"}, 3),
        ({"gres": "gpu"}, 1),
        ({"gres": "nvme:100"}, 0),
    ],
)
def test_gpus_a_node_as_count_or_exact_text(values: dict[str, object], count: int) -> None:
    where = Cluster.model_validate({"name": "x", "executor": "slurm", "defaults": values})
    assert cluster.gpus(where, RECIPE, "stage2") == count


def test_a_cluster_without_gpus_is_asked_for_none_but_for_those_that_its_file_names() -> None:
    assert cluster.gpus(Cluster(name="x", device="cpu"), RECIPE, "stage1") == 0
    assert cluster.gpus(cluster.load("devcluster"), RECIPE, "stage1") == 1


def test_the_runs_code_and_what_env_says_come_before_what_cache_implies() -> None:
    where = Cluster(name="x", cache="/c", env={"HF_HOME": "/hub", "PYTHONPATH": "/mine"}, scratch="/tmp/$USER")
    lines = cluster.exports(where, {"PYTHONPATH": "/snapshot:/mine"})
    assert lines[:4] == [
        "export XDG_CACHE_HOME=/c",
        "export HF_HOME=/hub",
        "export TRITON_CACHE_DIR=/c/triton",
        "export PYTHONPATH=/snapshot:/mine",
    ]
    assert lines[4] == 'export TMPDIR="/tmp/$USER"' and 'mkdir -p "$TMPDIR"' in lines[5]


def test_local_is_the_default_and_is_this_machine() -> None:
    where = cluster.load("local")
    assert (where.executor, where.device) == ("local", "auto")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("executor: slrum\n", "executor: Input should be 'local' or 'slurm'"),
        ("partitoin: x\n", "unknown key; valid keys: budget, cache, defaults"),
        ("defaults: {partitoin: x}\n", "did you mean 'partition'"),
        ("stages: {stage9: {partition: x}}\n", "no such stage; there are: surgery, teacher"),
        ("stages: {stage1: {time: 3}}\n", "stages.stage1: time: unknown key"),
        ("keeper: {time: 3}\n", "keeper: time: unknown key"),
        ("scratch: '$(rm -rf x)\"'\n", "scratch: String should match pattern"),
        ("budget: {gpu_hours: 0}\n", "budget.gpu_hours: Input should be greater than 0"),
        ("a: [\n", "is not YAML"),
        ("- a\n", "holds no keys with values, but list"),
        ("text\n", "holds no keys with values, but str"),
        ("a: \udcff\n", "is not YAML"),
    ],
)
def test_a_wrong_cluster_file_is_a_sentence(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "x.yaml").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        cluster.load("x", tmp_path)
    assert words in str(caught.value)


def test_an_unknown_cluster_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"choose one of: devcluster, .*local"):
        cluster.load("nowhere")


if __name__ == "__main__":
    sys.executable = "/shared/octupus tool call/.venv/bin/python"
    for each in NAMES:
        (GOLDEN / f"{each}.sbatch").write_text(texts(each), encoding="utf-8")
