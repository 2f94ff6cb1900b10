"""What training needs, before a job is queued: parameters as published, memory that adds up, a way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from octupus import config, estimate
from octupus.config import ModelSection, Recipe, TrainSection
from octupus.errors import ConfigError
from octupus.estimate import PUBLISHED, Shape
from octupus.publish import publish_json
from octupus.runs import Run
from slurm import budget
from slurm.cluster import Cluster, Resources

SEVEN = Shape(**PUBLISHED["Qwen/Qwen2.5-7B"])


@pytest.mark.parametrize(
    ("name", "billions"),
    [("0.5B", 0.49), ("1.5B", 1.54), ("3B", 3.09), ("7B", 7.61), ("14B", 14.7), ("32B", 32.5)],
)
def test_parameters_are_what_the_model_cards_say(name: str, billions: float) -> None:
    shape = Shape.of(ModelSection(base=f"Qwen/Qwen2.5-{name}"))
    assert shape is not None and shape.parameters / 1e9 == pytest.approx(billions, rel=0.011)


def test_parameters_are_those_of_the_architecture_itself(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    made = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    for tied in (True, False):
        asked = transformers.Qwen2Config(**made, num_key_value_heads=2, vocab_size=300, tie_word_embeddings=tied)
        model = transformers.Qwen2ForCausalLM(asked)
        asked.save_pretrained(tmp_path)
        shape = Shape.of(ModelSection(base=str(tmp_path)))
        assert shape is not None and shape.parameters == sum(p.numel() for p in model.parameters())


def test_an_unknown_model_is_not_guessed() -> None:
    assert Shape.of(ModelSection(base="somebody/model")) is None


def section(**changes: Any) -> TrainSection:
    return TrainSection.model_validate(
        {"nodes": 1, "ranks_per_node": 8, "global_batch": 64, "micro_batch": 4, **changes}
    )


def test_zero_deals_what_it_says_it_deals() -> None:
    """ZeRO, figure 1: 16 bytes a parameter, of which stage 1 deals 12, stage 2 14 and stage 3 all (here 4 more: the
    fp32 gradient that AdamW gets is counted too)."""
    by = {zero: estimate.memory(SEVEN, section(deepspeed={"zero": zero}), 4096) for zero in (0, 1, 2, 3)}
    params = SEVEN.parameters / 1e9 * estimate.FRAGMENTED
    assert by[0]["optimizer"] == pytest.approx(16 * params)
    assert by[1]["optimizer"] == by[2]["optimizer"] == by[3]["optimizer"] == pytest.approx(2 * params)
    assert by[1]["gradients"] - by[2]["gradients"] == pytest.approx(2 * params * 7 / 8)
    assert by[2]["weights"] == pytest.approx(2 * params) and by[3]["weights"] < by[2]["weights"] / 2
    totals = [sum(by[zero].values()) for zero in (0, 1, 2, 3)]
    assert totals == sorted(totals, reverse=True)
    offloaded = estimate.memory(SEVEN, section(deepspeed={"zero": 3, "offload": "all"}), 4096)
    assert offloaded["optimizer"] == 0 and offloaded["weights"] < by[3]["weights"]
    assert estimate.memory(SEVEN, section(gradient_checkpointing=False), 4096)["activations"] > 60
    assert by[2]["activations"] == pytest.approx(
        2 * estimate.memory(SEVEN, section(micro_batch=2), 4096)["activations"]
    )


@pytest.mark.parametrize("limit", [24.0, 40.0, 80.0, 141.0])
@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_advised_fits_and_nothing_is_advised_without_need(name: str, limit: float) -> None:
    shape, asked = Shape(**PUBLISHED[name]), section(micro_batch=2)
    changes = estimate.fitting(shape, asked, 8192, limit)
    fits = sum(estimate.memory(shape, asked, 8192).values()) <= limit
    assert (changes == {}) == fits
    if changes:
        words = [f"stage2.{path}={value}" for path, value in changes.items()]
        size = {key: value for key, value in asked.model_dump().items() if key != "deepspeed"}
        made = config.load("v2", [*(f"stage2.{k}={v}" for k, v in size.items() if v is not None), *words])
        assert sum(estimate.memory(shape, made.stage2, 8192).values()) <= limit


@pytest.fixture
def recipe() -> Recipe:
    return config.load("v2", ["stage1.nodes=1", "stage1.deepspeed.zero=1"])


def cluster(memory: float | None, gres: str | None = "gpu:h100:8") -> Cluster:
    return Cluster(name="c", executor="slurm", device="cuda", defaults=Resources(gpu_memory_gb=memory, gres=gres))


def test_a_stage_that_cannot_fit_is_refused_with_what_would(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"stage1 needs about \d\d GB a GPU \(weights 16.4, .*and has 40 .*SET=\"stage1"
    ):
        list(budget.check(recipe, Run(tmp_path), cluster(40.0), ["data", "stage1"]))
    with pytest.raises(ConfigError, match="no setting of micro_batch, ZeRO and offload would"):
        list(budget.check(recipe, Run(tmp_path), cluster(4.0), ["stage1"]))
    assert not list(budget.check(recipe, Run(tmp_path), cluster(4.0), ["data", "bfcl"]))


def test_gpu_hours_come_with_the_source_of_their_rate(recipe: Recipe, tmp_path: Path) -> None:
    run = Run(tmp_path)
    lines = list(budget.check(recipe, run, cluster(80.0), ["stage1", "stage2"]))
    assert len(lines) == 4 and "of 80 a GPU" in lines[0]
    assert "every 1,000 steps" in lines[1] and "assumed: 40% of an H100's 989 TFLOPS; not measured" in lines[1]
    assert "names no GPU that is known" in list(budget.check(recipe, run, cluster(80.0, None), ["stage1"]))[1]

    constrained = cluster(80.0, "gpu:8").model_copy(
        update={"defaults": Resources(gpu_memory_gb=80.0, gres="gpu:8", constraint="h100")}
    )
    assert "an H100's 989 TFLOPS" in list(budget.check(recipe, run, constrained, ["stage1"]))[1]

    publish_json(run.stage("data").path / "stage1" / "manifest.json", {"rows": 12800})
    run.stage("stage1").metrics.parent.mkdir(parents=True)
    run.stage("stage1").metrics.write_text(
        json.dumps({"step": 1, "tokens_per_s": 8 * 10_000.0, "gpu_mib": 1}) + '\n{"step": 2, "tok'
    )
    told = list(budget.check(recipe, run, cluster(80.0), ["stage1"]))[1]
    # 12,800 rows x 2 epochs / 128 = 200 steps of 128 x 4,096 tokens, at 10,000 tokens/s and GPU
    assert told == "stage1: about 2.9 GPU-hours for 200 steps (80,000 tokens/s, as this stage ran before)"


def test_without_the_size_of_a_gpu_nothing_is_refused_and_it_says_so(recipe: Recipe, tmp_path: Path) -> None:
    told, _ = budget.check(recipe, Run(tmp_path), cluster(None), ["stage1"])
    assert "of how many is not known (gpu_memory_gb of the cluster file), so nothing is refused" in told


def test_where_nothing_is_known_of_the_model_it_says_so(recipe: Recipe, tmp_path: Path) -> None:
    other = recipe.model_copy(update={"model": ModelSection(base="somebody/model")})
    (line,) = budget.check(other, Run(tmp_path), cluster(80.0), ["stage1"])
    assert line == "memory and GPU-hours of somebody/model cannot be estimated before its config.json is here"
