"""What training refuses, and the sentence it refuses it with."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from octupus.config import load
from octupus.errors import ConfigError, DataError, JobError, WireError
from octupus.publish import publish_json
from octupus.runs import Run
from octupus.train import checkpoint, sft
from octupus.train.deepspeed import accumulation, settings
from tests.numerical.world import documents, losses, make_run, metrics, recipe, write_rows


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("ready")).path


@pytest.fixture
def run(ready: Path, tmp_path: Path) -> Run:
    """A run of its own after surgery and data."""
    return Run(shutil.copytree(ready, tmp_path / "mine"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_without_a_model_the_maker_is_named(run: Run) -> None:
    with pytest.raises(JobError, match=r"stage2 starts from .*stage1/export, which does not exist; run: make stage1"):
        sft.run(recipe(), run, "stage2")


def test_shards_of_another_wire_are_refused_with_both_values_and_the_command(run: Run) -> None:
    edit(run.path / "data" / "stage1" / "manifest.json", fingerprint="sha256:other")
    with pytest.raises(WireError, match=r"sha256:other.*sha256:[0-9a-f]{64}.*make data RUN=mine FRESH=1"):
        sft.run(recipe(), run, "stage1")


def test_a_tokenizer_that_is_not_the_models_is_refused(run: Run) -> None:
    edit(run.path / "surgery" / "model" / "wire.json", fingerprint="sha256:other")
    with pytest.raises(WireError, match="sha256:other"):
        sft.run(recipe(), run, "stage1")


def test_a_model_with_too_few_rows_is_refused(run: Run) -> None:
    edit(run.path / "surgery" / "model" / "config.json", vocab_size=500)
    with pytest.raises(JobError, match=r"500 embedding rows; run: make surgery"):
        sft.run(recipe(), run, "stage1")


def test_a_row_with_nothing_supervised_is_refused(run: Run) -> None:
    ids = np.arange(10)
    write_rows(run.path / "data" / "stage1", [[(ids, ids < 0), (ids, ids == 0)]] * 4)
    with pytest.raises(DataError, match=r"row \d: nothing in it is supervised; run: make data"):
        sft.run(recipe(), run, "stage1")


def test_a_batch_that_does_not_divide_is_refused_with_ones_that_do() -> None:
    with pytest.raises(ConfigError, match=r"global_batch 4 does not divide by 3 ranks x micro_batch 1; 3 or 6 would"):
        accumulation(recipe().stage1, 3)


def test_other_values_are_refused_on_resume_and_the_same_ones_go_on(run: Run) -> None:
    done = sft.run(recipe(max_steps=2), run, "stage1")
    with pytest.raises(ConfigError, match=r"lr 0.005 there, 0.001 now. .*FRESH=1"):
        sft.run(recipe(max_steps=2, lr=1e-3, ranks_per_node=2), run, "stage1")
    assert sft.run(recipe(max_steps=2, checkpoint_every=1), run, "stage1") == done
    unmasked = [(ids, np.arange(len(ids)) > 0) for ids, _ in documents()]
    write_rows(run.path / "data" / "stage1", [unmasked[i : i + 3] for i in range(0, 60, 3)])
    with pytest.raises(ConfigError, match=r"data .*mask.bin"):
        sft.run(recipe(max_steps=2), run, "stage1")


def test_what_is_not_finite_is_left_out_counted_and_kept(run: Run, tmp_path: Path) -> None:
    """One document holds a token whose embedding is NaN: its step is left out, the others are as without it."""
    clean = Run(shutil.copytree(run.path, tmp_path / "clean"))
    poison = [documents()[i : i + 3] for i in range(0, 60, 3)]
    poison[0] = [(np.full(6, 699), np.arange(6) > 0)]
    weights = load_file(run.path / "surgery" / "model" / "model.safetensors")
    for one, value in ((run, torch.nan), (clean, 0.0)):
        table = weights["model.embed_tokens.weight"].clone()
        untied = {**weights, "lm_head.weight": table.clone(), "model.embed_tokens.weight": table}
        table[699] = value
        edit(one.path / "surgery" / "model" / "config.json", tie_word_embeddings=False)
        save_file(untied, one.path / "surgery" / "model" / "model.safetensors", metadata={"format": "pt"})
        write_rows(one.path / "data" / "stage1", poison)

    once = recipe(epochs=1.0)
    assert sft.run(once, run, "stage1")["bad_steps"] == 1
    (bad,) = [row["step"] for row in metrics(run) if row["loss"] is None]
    assert [row["grad_norm"] is None for row in metrics(run)] == [row["step"] == bad for row in metrics(run)]
    saved = np.load(run.path / "stage1" / "bad" / f"step-{bad:08d}-rank-0.npz")
    assert any((saved[key] == 699).any() for key in saved.files if key.startswith("input_ids"))
    sft.run(once, clean, "stage1")
    assert losses(run)[: bad - 1] == losses(clean)[: bad - 1]
    exported = load_file(run.path / "stage1" / "export" / "model.safetensors")
    assert all(t.isfinite().all() for n, t in exported.items() if n != "model.embed_tokens.weight")

    again = Run(shutil.copytree(run.path, tmp_path / "again", ignore=shutil.ignore_patterns("stage1")))
    write_rows(again.path / "data" / "stage1", poison)
    with pytest.raises(JobError, match=rf"not finite in 1 steps, the last one step {bad}; .*Lower stage1.lr"):
        sft.run(recipe(max_bad_steps=1), again, "stage1")


def test_a_half_written_checkpoint_does_not_count(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    for step, whole in ((2, True), (4, True), (6, False)):
        folder = tmp_path / checkpoint.name(step)
        folder.mkdir()
        if whole:
            publish_json(folder / "complete.json", asdict(checkpoint.Complete(step, 1, 2, 0, {})))
    found = checkpoint.newest(tmp_path)
    assert found is not None and found.step == 4


def test_the_learning_rate_rises_in_a_line_and_falls_in_a_cosine() -> None:
    section = recipe(lr=1.0, min_lr=0.1, warmup_steps=4).stage1
    rates = [sft.learning_rate(section, step, 24) for step in range(24)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[-1] == pytest.approx(0.1) and rates[13] == pytest.approx(0.55)
    assert rates[3:] == sorted(rates[3:], reverse=True)


def test_attention_that_training_does_not_do_is_refused(run: Run) -> None:
    edit(run.path / "surgery" / "model" / "config.json", layer_types=["full_attention", "sliding_attention"])
    with pytest.raises(JobError, match="asks for layer_types sliding_attention: training here has full attention only"):
        sft.run(recipe(), run, "stage1")


def test_a_rank_that_is_no_number_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "first")
    with pytest.raises(ConfigError, match="RANK, WORLD_SIZE and LOCAL_RANK are numbers that a launcher sets"):
        sft.run(recipe(), run, "stage1")


@pytest.mark.parametrize(("offload", "zero", "least"), [("all", 2, 3), ("optimizer", 0, 1)])
def test_what_deepspeed_cannot_offload_is_refused(offload: str, zero: int, least: int) -> None:
    with pytest.raises(ConfigError, match=rf"offload '{offload}' needs zero {least} or more, not {zero}"):
        load("v2", [f"stage1.deepspeed.offload={offload}", f"stage1.deepspeed.zero={zero}"])


def test_deepspeed_gets_what_the_recipe_says() -> None:
    section = recipe(precision="bf16", deepspeed={"zero": 3, "offload": "all"}).stage1
    config = settings(section, 2, 1000, "cuda")
    assert config["gradient_accumulation_steps"] == 2 and config["bf16"] == {"enabled": True}
    zero = config["zero_optimization"]
    assert (zero["stage"], zero["overlap_comm"], zero["reduce_bucket_size"]) == (3, True, 1000)
    assert zero["offload_optimizer"]["device"] == zero["offload_param"]["device"] == "cpu"
