"""A run folder that can be trained in seconds, and real DeepSpeed ranks to train it with.

Run as a script, this file IS a rank: ``python -m tests.numerical.world <plan.json>`` trains one after the other what the
plan lists.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from octupus.config import Recipe, ScratchModel
from octupus.data.shards import ShardWriter
from octupus.runs import Run
from tests.support.tiny import tiny_folder, tiny_wire

ROOT = Path(__file__).resolve().parents[2]
MODEL = ScratchModel(vocab_size=1024, hidden_size=32, intermediate_size=64, layers=2, heads=4, kv_heads=2)
STAGE = {
    "lr": 5e-3,
    "min_lr": 1e-3,
    "warmup_steps": 2,
    "ranks_per_node": 1,
    "global_batch": 4,
    "micro_batch": 1,
    "weight_decay": 0.1,
    "clip": 0.5,
    "epochs": 1.2,
    "max_steps": 6,
    "precision": "fp32",
    "checkpoint_every": 2,
    "deepspeed": {"zero": 2},
}


def documents(count: int = 60, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random documents of 5 to 40 tokens with random masks, the first token never supervised."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        length = int(random.integers(5, 40))
        mask = random.random(length) < 0.4
        mask[0], mask[-1] = False, True
        found.append((random.integers(0, 60, length), mask))
    return found


def write_rows(folder: Path, rows: list[list[tuple[np.ndarray, np.ndarray]]]) -> None:
    """Shards whose rows are the given documents, laid end to end."""
    with ShardWriter(folder) as writer:
        for row in rows:
            ids, mask = (np.concatenate(parts) for parts in zip(*row, strict=True))
            writer.add(ids, mask, np.cumsum([0, *(len(d[0]) for d in row)])[:-1])
        writer.publish(context=200, fingerprint=tiny_wire().fingerprint)


def make_run(path: Path, rows: list[list[tuple[np.ndarray, np.ndarray]]] | None = None, **model: Any) -> Run:
    """A run after surgery and data: a random model that knows the wire's tokens, and the same shards for both stages."""
    from transformers import Qwen2Config, Qwen2ForCausalLM, set_seed

    folder = path / "surgery" / "model"
    shape = MODEL.model_copy(update=model)
    set_seed(shape.seed)
    config = Qwen2Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
        eos_token_id=0,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    for file in tiny_folder().iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    rows = rows or [documents()[i : i + 3] for i in range(0, 60, 3)]
    write_rows(path / "data" / "stage1", rows)
    write_rows(path / "data" / "stage2", rows)
    return Run(path)


def recipe(**changes: Any) -> Recipe:
    """A recipe whose two stages are :data:`STAGE` with changes."""
    stage = {**STAGE, **changes}
    return Recipe.model_validate(
        {"name": "test", "model": {"scratch": MODEL.model_dump()}, "stage1": stage, "stage2": stage}
    )


def metrics(run: Run, stage: str = "stage1") -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.stage(stage).metrics.read_text(encoding="utf-8").splitlines()]


def losses(run: Run, stage: str = "stage1") -> list[float]:
    return [row["loss"] for row in metrics(run, stage)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(plan: list[dict[str, Any]], world: int, path: Path) -> list[subprocess.Popen[str]]:
    """Start ``world`` ranks that work through ``plan``: entries of run, stage, section and what a rank is to suffer."""
    path.write_text(json.dumps(plan), encoding="utf-8")
    env = os.environ | {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(world), "DS_ACCELERATOR": "cpu"}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.numerical.world", str(path)],
            cwd=ROOT,
            env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]


def finish(ranks: list[subprocess.Popen[str]], timeout: float = 240.0) -> list[tuple[int, str]]:
    """Exit code and output of every rank; none is left behind."""
    try:
        outputs = [rank.communicate(timeout=timeout)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [(rank.returncode, output) for rank, output in zip(ranks, outputs, strict=True)]


def train_all(plan: list[dict[str, Any]], world: int, path: Path) -> None:
    """:func:`launch` and expect every rank to end well."""
    for rank, (code, output) in enumerate(finish(launch(plan, world, path))):
        assert code == 0, f"rank {rank} ended with {code}:\n{output[-4000:]}"


def _suffer(entry: dict[str, Any]) -> None:
    """A signal that this rank sends to itself when it is about to read the batches of one step."""
    from octupus.data.batches import Batches

    plain, done = Batches.at, []

    def at(self: Batches, step: int) -> Any:
        if step == entry["at_step"] and self.rank == entry["rank"] and not done:
            done.append(True)
            os.kill(os.getpid(), getattr(signal, entry["signal"]))
        return plain(self, step)

    Batches.at = at  # type: ignore[method-assign]


def main() -> None:
    from octupus.errors import OctupusError
    from octupus.train import sft
    from octupus.train.ranks import Interrupted

    for entry in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        if "suffer" in entry:
            _suffer(entry["suffer"])
        try:
            print(sft.run(recipe(**entry.get("section", {})), Run(entry["run"]), entry.get("stage", "stage1")))
        except Interrupted as error:
            print(f"Interrupted: {error}")
        except OctupusError as error:
            sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
