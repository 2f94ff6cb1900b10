"""Training speed against TRL's SFTTrainer, in one run: ``python -m benchmarks.train [--rounds 3] [--steps 10]``.

Both train the same random model on the same packed rows in the same order, turn about, each round in a process of its
own with all cores; the last line is JSON. The device is picked, not asked for. TRL runs as its documentation advises:
packed rows with their documents' lengths (padding-free), the loss that leaves out unsupervised positions, fused AdamW,
and FlashAttention where its package is installed; without it, its attention takes a mask of the whole row.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

WARM = 2
"""Steps of a round that do not count."""
CHECKPOINT_EVERY = 100
SHAPES = {
    "demo": {"vocab_size": 8192, "hidden_size": 256, "intermediate_size": 704, "layers": 4, "heads": 8, "kv_heads": 2},
    "1.5b": {
        **{"vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960},
        **{"layers": 28, "heads": 12, "kv_heads": 2},
    },
    "3b": {
        **{"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008},
        **{"layers": 36, "heads": 16, "kv_heads": 2},
    },
}


def recipe(work: dict[str, Any]) -> Any:
    """What both sides train with."""
    from octupus.config import Recipe

    stage = {
        **{"ranks_per_node": 1, "micro_batch": 1, "global_batch": work["rows"], "epochs": 1.0},
        **{"lr": 1e-4, "min_lr": 1e-4, "warmup_steps": 0, "clip": 1.0, "precision": work["precision"]},
        **{"gradient_checkpointing": work["checkpointing"], "checkpoint_every": work["steps"]},
    }
    return Recipe.model_validate(
        {"name": "benchmark", "model": {"scratch": SHAPES[work["shape"]]}, "stage1": stage, "stage2": stage}
    )


def prepare(folder: Path, work: dict[str, Any]) -> None:
    """A run folder after surgery and data; documents of some 300 tokens of which the last 40% are supervised."""
    from octupus import scratch, surgery
    from octupus.data.shards import ShardWriter
    from octupus.tokenizer import load_wire

    random = np.random.default_rng(0)
    base = scratch.build(recipe(work).model.scratch, ["the quick brown fox 你好"] * 9, folder / "surgery" / "base")
    surgery.operate(base, folder / "surgery" / "model")
    wire, _ = load_wire(folder / "surgery" / "model")
    with ShardWriter(folder / "data" / "stage1") as writer:
        for _ in range(work["rows"] * work["steps"]):
            lengths: list[int] = []
            while (left := work["context"] - sum(lengths)) > 0:
                lengths.append(min(left, int(np.clip(random.lognormal(5.4, 0.7), 20, work["context"]))))
            mask = np.concatenate([np.arange(n) >= max(1, int(0.6 * n)) for n in lengths])
            mask[-1] = True
            ids = random.zipf(1.3, work["context"]) % 250
            writer.add(ids, mask, np.cumsum([0, *lengths])[:-1])
        writer.publish(context=work["context"], fingerprint=wire.fingerprint)


def ours(folder: Path, work: dict[str, Any]) -> dict[str, Any]:
    """Our loop, as the job runs it; the time of a checkpoint is taken around its writing."""
    from octupus.runs import Run
    from octupus.train import checkpoint, sft

    plain, spent = checkpoint.save, 0.0

    def save(*args: Any) -> None:
        nonlocal spent
        began = time.perf_counter()
        plain(*args)
        spent += time.perf_counter() - began

    checkpoint.save = save  # type: ignore[assignment]
    run = Run(folder)
    sft.run(recipe(work), run, "stage1")
    rows = [json.loads(line) for line in run.stage("stage1").metrics.read_text().splitlines()]
    timed = rows[WARM:]
    return {
        "seconds": [row["seconds"] for row in timed],
        "losses": [row["loss"] for row in rows],
        "data_wait": sum(row["data_wait"] for row in timed) / sum(row["seconds"] for row in timed),
        "checkpoint_s": spent,
        "mfu": timed[-1]["mfu"],
        "memory_mib": timed[-1].get("gpu_mib", timed[-1]["rss_mib"]),
    }


def trl(folder: Path, work: dict[str, Any]) -> dict[str, Any]:
    """TRL's trainer on the same rows."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from octupus.data.batches import Batches
    from octupus.data.shards import Shards
    from octupus.train.metrics import memory_mib

    shards = Shards(folder / "data" / "stage1")
    batches = Batches(shards, 0, 1, 1, work["rows"], 0, 1.0)
    found = [shards[i] for step in range(work["steps"]) for (i,) in batches.rows(step)]
    data = Dataset.from_list(
        [
            {
                "input_ids": row.ids.tolist(),
                "labels": np.where(row.mask, row.ids, -100).tolist(),
                "seq_lengths": np.diff(np.append(row.starts, len(row.ids))).tolist(),
            }
            for row in found
        ]
    )
    model = folder / "surgery" / "model"
    flash = torch.cuda.is_available() and importlib.util.find_spec("flash_attn") is not None
    bf16 = work["precision"] == "bf16"
    options: dict[str, Any] = {
        "output_dir": str(folder / "trl"),
        **{"per_device_train_batch_size": 1, "gradient_accumulation_steps": work["rows"], "max_steps": work["steps"]},
        **{"learning_rate": 1e-4, "lr_scheduler_type": "constant", "weight_decay": 0.0, "adam_beta2": 0.95},
        **{"max_grad_norm": 1.0, "optim": "adamw_torch_fused", "bf16": bf16, "use_cpu": not torch.cuda.is_available()},
        **{"gradient_checkpointing": work["checkpointing"], "train_sampling_strategy": "sequential"},
        **{"logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True},
        **{"padding_free": True, "max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}},
    }
    times: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            times.append(time.perf_counter())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter())

    loaded = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, attn_implementation="flash_attention_2" if flash else "sdpa"
    )
    tokenizer = AutoTokenizer.from_pretrained(model)
    trainer = SFTTrainer(
        loaded, SFTConfig(**options), train_dataset=data, processing_class=tokenizer, callbacks=[Clock()]
    )
    trainer.train()
    ends = times[1::2]
    memory = memory_mib()
    return {
        "seconds": list(np.diff(ends)[WARM - 1 :]),
        "losses": [float(row["loss"]) for row in trainer.state.log_history if "loss" in row],
        "attention": "flash" if flash else "sdpa",
        "memory_mib": memory.get("gpu_mib", memory["rss_mib"]),
    }


def one_round(kind: str, folder: Path, work: dict[str, Any]) -> dict[str, Any]:
    """Run one side in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.train", "--round", kind, "--folder", str(folder)]
    done = subprocess.run([*command, "--work", json.dumps(work)], capture_output=True, text=True, env=os.environ)
    if done.returncode:
        sys.exit(f"{kind} failed:\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(work: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Rounds of both, turn about: medians, their spread, and whether both computed the same thing."""
    speeds: dict[str, list[float]] = {"ours": [], "trl": []}
    last: dict[str, dict[str, Any]] = {}
    tokens = work["rows"] * work["context"]
    with tempfile.TemporaryDirectory(prefix="octupus-benchmark-") as name:
        first = Path(name) / "prepared"
        prepare(first, work)
        for turn in range(rounds):
            for kind in ("ours", "trl") if turn % 2 == 0 else ("trl", "ours"):
                folder = Path(name) / f"{kind}-{turn}"
                subprocess.run(["cp", "-r", str(first), str(folder)], check=True)
                last[kind] = one_round(kind, folder, work)
                speeds[kind].append(tokens / median(last[kind]["seconds"]))
                print(f"round {turn + 1}: {kind} {speeds[kind][-1]:,.0f} tokens/s", flush=True)
    ratios = [a / b for a, b in zip(speeds["ours"], speeds["trl"], strict=True)]
    step = tokens / median(speeds["ours"])
    apart = max(abs(a - b) for a, b in zip(last["ours"]["losses"], last["trl"]["losses"], strict=True))
    return {
        "ratio_trl": round(median(ratios), 3),
        "ratio_trl_interval": [round(min(ratios), 3), round(max(ratios), 3)],
        "tokens_per_s": round(median(speeds["ours"])),
        "tokens_per_s_trl": round(median(speeds["trl"])),
        "step_s": round(step, 3),
        "checkpoint_overhead": round(last["ours"]["checkpoint_s"] / (CHECKPOINT_EVERY * step), 4),
        "data_wait": round(last["ours"]["data_wait"], 5),
        "mfu": last["ours"]["mfu"],
        "memory_mib": [last["ours"]["memory_mib"], last["trl"]["memory_mib"]],
        "loss": [last["ours"]["losses"][-1], last["trl"]["losses"][-1]],
        "loss_apart": round(apart, 5),
        "attention_trl": last["trl"]["attention"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="of a round, the first two not counted")
    parser.add_argument("--shape", choices=SHAPES, help="default: demo on a CPU, 1.5b on a GPU")
    parser.add_argument("--context", type=int, help="default: 2048 on a CPU, 4096 on a GPU")
    parser.add_argument("--rows", type=int, help="packed rows of a step")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations, on both sides")
    parser.add_argument("--round", choices=("ours", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.round:
        print(json.dumps({"ours": ours, "trl": trl}[asked.round](asked.folder, asked.work)))
        return
    import torch

    gpu = torch.cuda.is_available()
    work = {
        "shape": asked.shape or ("1.5b" if gpu else "demo"),
        "context": asked.context or (4096 if gpu else 2048),
        "rows": asked.rows or (8 if gpu else 4),
        "steps": asked.steps,
        "precision": "bf16" if gpu else "fp32",
        "checkpointing": asked.checkpointing,
    }
    device = torch.cuda.get_device_name() if gpu else f"CPU, {len(os.sched_getaffinity(0))} cores"
    print(f"on {device}: {work}", flush=True)
    print(json.dumps({"benchmark": "train", "device": device, **work, **compare(work, asked.rounds)}))


if __name__ == "__main__":
    main()
