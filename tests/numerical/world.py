"""A run folder that can be trained in seconds, and real DeepSpeed ranks to train it with."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np

from octupus.config import Recipe, ScratchModel
from octupus.data.shards import ShardWriter
from octupus.runs import Run
from tests.numerical.rank import work
from tests.support.tiny import tiny_folder, tiny_wire

# Some sandboxes show AMX and then kill whoever uses it; oneDNN's bf16 kernels would.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

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
    "validate_every": 3,
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
    """A run after surgery and data: a random model that knows the wire's tokens, one set of shards for both stages."""
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
    (path / "data" / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held_out()))
    return Run(path)


def held_out() -> list[dict[str, Any]]:
    """Conversations of several lengths that are never trained on, half of them with a call."""
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "look", "arguments": {"at": "the sea"}}]}
    said = [[{"role": "assistant", "content": "so it is"}], [call, {"role": "tool", "content": "blue"}]]
    asked = [{"role": "user", "content": f"what is {'so ' * n}new?"} for n in range(6)]
    ends = {"role": "assistant", "content": "that is all"}
    tools = [{"raw": {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}}]
    return [{"messages": [ask, *said[n % 2], ends][: 2 + 2 * (n % 2)], "tools": tools} for n, ask in enumerate(asked)]


def recipe(**changes: Any) -> Recipe:
    """A recipe whose two stages are :data:`STAGE` with changes."""
    stage = {**STAGE, **changes}
    return Recipe.model_validate({"name": "test", "model": {"scratch": {}}, "stage1": stage, "stage2": stage})


def metrics(run: Run, stage: str = "stage1") -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.stage(stage).metrics.read_text(encoding="utf-8").splitlines()]


def losses(run: Run, stage: str = "stage1") -> list[float]:
    return [row["loss"] for row in metrics(run, stage)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def task(run: Run, stage: str = "stage1", **changes: Any) -> dict[str, Any]:
    """One entry of a plan."""
    return {"run": str(run.path), "stage": stage, "recipe": recipe(**changes).model_dump(mode="json")}


class Ranks:
    """Real processes with gloo between them that work through a plan: entries as :func:`task` makes them.

    They are forked from a server that has imported torch and DeepSpeed once; each starts with a clean slate otherwise.
    """

    def __init__(self, plan: list[dict[str, Any]], world: int, path: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.numerical.rank"])
        path.mkdir(parents=True, exist_ok=True)
        env = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        self.logs = [path / f"rank-{rank}.log" for rank in range(world)]
        self.processes = [
            context.Process(target=work, args=(plan, env | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, str(log)))
            for rank, log in enumerate(self.logs)
        ]
        for process in self.processes:
            process.start()

    def finish(self, timeout: float = 240.0) -> list[tuple[int | None, str]]:
        """Exit code and output of every rank; none is left behind."""
        for process in self.processes:
            process.join(timeout)
            process.kill()
            process.join()
        return [(p.exitcode, log.read_text()) for p, log in zip(self.processes, self.logs, strict=True)]


def train_all(plan: list[dict[str, Any]], world: int, path: Path) -> None:
    """Run a plan and expect every rank to end well."""
    for rank, (code, output) in enumerate(Ranks(plan, world, path).finish()):
        assert code == 0, f"rank {rank} ended with {code}:\n{output[-4000:]}"
