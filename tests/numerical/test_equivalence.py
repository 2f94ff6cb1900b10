"""Layout is not mathematics: packing, accumulation, world size, ZeRO stage or a death in between, the same losses."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from octupus.config import TrainSection
from octupus.runs import Run
from octupus.tokenizer import load_wire
from octupus.train import sft
from octupus.wire import Conversation
from tests.numerical import reference
from tests.numerical.world import STAGE, Ranks, documents, held_out, losses, make_run, metrics, recipe, task, train_all

STEPS = 6
CLOSE = {"rel": 0.0, "abs": 1e-5}


def alone(path: Path, rows=None, **section) -> Run:
    """Train stage 1 with one rank, in this process."""
    run = make_run(path, rows)
    sft.run(recipe(**section), run, "stage1")
    return run


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Run:
    """What everything else is compared with: one rank, ZeRO-2, accumulation 4 x 1."""
    return alone(tmp_path_factory.mktemp("plain"))


def weights(run: Run, stage: str = "stage1") -> dict[str, torch.Tensor]:
    return load_file(run.stage(stage).path / "export" / "model.safetensors")


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol: float = 2e-5) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=atol, msg=lambda text, n=name: f"{n}: {text}")


def test_a_textbook_loop_gives_the_same_losses_norms_and_weights(plain: Run) -> None:
    section = TrainSection.model_validate(STAGE)
    expected, norms, model = reference.train(
        plain.path / "surgery" / "model", plain.path / "data" / "stage1", section, STEPS
    )
    assert losses(plain) == pytest.approx(expected, **CLOSE)
    assert [row["grad_norm"] for row in metrics(plain)] == pytest.approx(norms, rel=1e-4)
    assert max(norms) > section.clip, "clipping must be at work for this to mean anything"
    assert losses(plain)[-1] < losses(plain)[0] - 0.2, "it must learn something"
    trained = {n: p.detach() for n, p in model.named_parameters()}
    assert_same_weights(weights(plain), trained, atol=1e-4)


def test_packed_is_unpacked(tmp_path: Path) -> None:
    found = documents(12)
    epochs = {"epochs": 3.0, "max_steps": None}
    packed = alone(tmp_path / "packed", [found[i : i + 3] for i in range(0, 12, 3)], global_batch=4, **epochs)
    unpacked = alone(tmp_path / "unpacked", [[d] for d in found], global_batch=12, **epochs)
    assert len(losses(packed)) == 3
    assert losses(packed) == pytest.approx(losses(unpacked), **CLOSE)
    assert [r["supervised"] for r in metrics(packed)] == [r["supervised"] for r in metrics(unpacked)]


@pytest.mark.parametrize(
    "layout",
    [{"micro_batch": 4}, {"micro_batch": 2, "gradient_checkpointing": False}, {"deepspeed": {"zero": 0}}],
    ids=["1x4", "2x2 without checkpointing", "ZeRO-0"],
)
def test_accumulation_and_checkpointing_are_layout(plain: Run, tmp_path: Path, layout: dict) -> None:
    assert losses(alone(tmp_path, **layout)) == pytest.approx(losses(plain), **CLOSE)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> dict[int, Run]:
    """Two ranks, ZeRO-0 to 3, one after the other in the same processes."""
    path = tmp_path_factory.mktemp("two")
    runs = {zero: make_run(path / f"zero{zero}") for zero in range(4)}
    train_all([task(run, deepspeed={"zero": zero}) for zero, run in runs.items()], 2, path / "logs")
    return runs


@pytest.mark.parametrize("zero", range(4))
def test_two_ranks_are_one_at_every_zero_stage(plain: Run, two_ranks: dict[int, Run], zero: int) -> None:
    assert losses(two_ranks[zero]) == pytest.approx(losses(plain), **CLOSE)
    assert_same_weights(weights(two_ranks[zero]), weights(plain), atol=1e-4)
    ours, theirs = (validations(run) for run in (plain, two_ranks[zero]))
    assert len(ours) == 2 and all(one == pytest.approx(two, **CLOSE) for one, two in zip(ours, theirs, strict=True))


def validations(run: Run) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k.startswith("val_")} for row in metrics(run) if "val_loss" in row]


def test_held_out_loss_is_that_of_the_exported_model(plain: Run) -> None:
    wire, _ = load_wire(plain.path / "surgery" / "model")
    model = AutoModelForCausalLM.from_pretrained(plain.path / "stage1" / "export")
    total, count, turns = 0.0, 0, 0
    for row in held_out():
        done = wire.render(Conversation.model_validate(row))
        ids, mask = torch.tensor([done.ids]), torch.tensor(done.mask)
        with torch.no_grad():
            each = functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
        total, count = total + float(each[mask[1:]].sum()), count + int(mask[1:].sum())
        turns += sum(m["role"] == "assistant" for m in row["messages"])
    last = validations(plain)[-1]
    assert last["val_loss"] == pytest.approx(total / count, abs=1e-5)
    assert (last["val_calls"], turns) == (3, 9)


@pytest.mark.parametrize("zero", [2, 3])
def test_a_kept_checkpoint_can_be_served(two_ranks: dict[int, Run], zero: int, tmp_path: Path) -> None:
    """Gathered without any rank, the newest checkpoint is the export (but its card), byte for byte."""
    from octupus.train.unshard import unshard

    stage = two_ranks[zero].path / "stage1"
    newest = max(p.parent for p in stage.glob("checkpoints/step-*/complete.json"))
    unshard(newest, two_ranks[zero].path / "surgery" / "model", tmp_path / "model", "fp32")
    exported = [path for path in (stage / "export").iterdir() if path.name != "README.md"]
    assert {path.name for path in exported} == {path.name for path in (tmp_path / "model").iterdir()}
    for path in exported:
        assert (tmp_path / "model" / path.name).read_bytes() == path.read_bytes(), path.name


def test_killed_and_interrupted_runs_resume_to_the_last_digit(two_ranks: dict[int, Run], tmp_path: Path) -> None:
    """kill -9 of one rank at a random step, later a signal to the other: nothing of it shows in the figures."""
    run = make_run(tmp_path / "run")
    killed = random.SystemRandom().randrange(1, STEPS - 1)
    doomed = task(run) | {"suffer": {"rank": 1, "at_step": killed, "kind": "SIGKILL"}}
    (code, survivor), (dead, _) = Ranks([doomed], 2, tmp_path / "killed").finish()
    assert (code, dead) == (1, -9), survivor[-3000:]
    assert "lost another rank" in survivor and "last checkpoint" in survivor, survivor[-3000:]

    stopped = task(run) | {"suffer": {"rank": 1, "at_step": STEPS - 1, "kind": "SIGUSR2"}}
    ranks = Ranks([stopped, task(run)], 2, tmp_path / "stopped").finish()
    assert [code for code, _ in ranks] == [0, 0], ranks[0][1][-3000:]
    assert "Interrupted: stage1 stopped at step" in ranks[0][1]

    same = ("step", "loss", "grad_norm", "lr", "tokens", "supervised")
    found, undisturbed = ([[row[key] for key in same] for row in metrics(r)] for r in (run, two_ranks[2]))
    assert found == undisturbed, f"killed at {killed}"
    assert_same_weights(weights(run), weights(two_ranks[2]), atol=0.0)
    kept = {p.parent.name: json.loads(p.read_text()) for p in run.path.glob("stage1/checkpoints/*/complete.json")}
    assert len(kept) == 2 and "step-00000006" in kept and {c["world"] for c in kept.values()} == {2}, kept


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("sleep", "rank 1 hangs outside any collective"),
        pytest.param("SIGSTOP", "rank 1 is silent", marks=pytest.mark.full),
    ],
)
def test_a_hanging_rank_is_named(tmp_path: Path, kind: str, words: str) -> None:
    run = make_run(tmp_path / "run")
    stuck = task(run, hang_after_s=4.0) | {"suffer": {"rank": 1, "at_step": 3, "kind": kind}}
    ranks = Ranks([stuck], 2, tmp_path / "logs")
    ranks.processes[0].join(120)
    if kind == "SIGSTOP":
        ranks.processes[1].kill()
    (code, output), (other_code, other) = ranks.finish()
    # Whoever looks first says it and ends with 75; the other one may lose its peer before it has said the same.
    first, said = (0, output) if code == 75 else (1, other)
    assert (code if first == 0 else other_code) == 75 and words in said and "rank-*.stack" in said, output[-3000:]
    assert "loop" in (run.path / "stage1" / "ranks" / f"rank-{first}.stack").read_text()


def rewound(run: Run, path: Path) -> Run:
    """A copy that was killed after the checkpoint before the last one."""
    copy = Run(shutil.copytree(run.path, path))
    shutil.rmtree(copy.path / "stage1" / "export")
    shutil.rmtree(max((copy.path / "stage1" / "checkpoints").glob("step-*")))
    return copy


@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 2), (2, 1), (3, 3)])
def test_a_checkpoint_of_two_ranks_goes_on_with_one(
    two_ranks: dict[int, Run], tmp_path: Path, before: int, after: int
) -> None:
    run = rewound(two_ranks[before], tmp_path / "run")
    sft.run(recipe(deepspeed={"zero": after}), run, "stage1")
    assert losses(run) == pytest.approx(losses(two_ranks[2]), **CLOSE)
    assert_same_weights(weights(run), weights(two_ranks[2]), atol=1e-4)


@pytest.mark.parametrize("zero", [2, pytest.param(3, marks=pytest.mark.full)])
def test_four_ranks_are_one_train_both_stages_and_go_on_as_two(plain: Run, tmp_path: Path, zero: int) -> None:
    four = make_run(tmp_path / "four")
    train_all([task(four, stage, deepspeed={"zero": zero}) for stage in ("stage1", "stage2")], 4, tmp_path / "logs4")
    assert losses(four) == pytest.approx(losses(plain), **CLOSE)
    assert losses(four, "stage2")[0] < losses(plain)[-1] + 0.1, "stage 2 starts from stage 1's export"
    run = rewound(four, tmp_path / "two")
    train_all([task(run, deepspeed={"zero": zero})], 2, tmp_path / "logs2")
    assert losses(run) == pytest.approx(losses(plain), **CLOSE)


def test_the_export_is_an_ordinary_folder_and_bf16_trains(plain: Run, tmp_path: Path) -> None:
    run = alone(tmp_path / "two", precision="bf16")
    assert losses(run) == pytest.approx(losses(plain), abs=0.005)
    assert losses(alone(tmp_path / "zero", precision="bf16", deepspeed={"zero": 0})) == pytest.approx(
        losses(plain), abs=0.005
    )
    for trained, dtype in ((plain, "float32"), (run, "bfloat16")):
        start, export = trained.path / "surgery" / "model", trained.path / "stage1" / "export"
        assert {p.name for p in start.iterdir()} | {"README.md"} == {p.name for p in export.iterdir()}
        same = {p.name for p in start.iterdir() if p.read_bytes() == (export / p.name).read_bytes()}
        assert {p.name for p in start.iterdir()} - same <= {"model.safetensors", "config.json"}
        model = AutoModelForCausalLM.from_pretrained(export)
        assert str(model.dtype) == f"torch.{dtype}" and model.lm_head.weight is model.model.embed_tokens.weight
        tokenizer = AutoTokenizer.from_pretrained(export)
        assert tokenizer.chat_template and tokenizer.eos_token == "<|endoftext|>"
