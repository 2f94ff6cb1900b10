"""What training will need, before a job is queued: parameters, memory of a GPU by part, operations, GPU-hours.

Plain arithmetic over a model's shape and a recipe's values, without torch: a login node answers at once. What DeepSpeed
keeps where follows the ZeRO paper (arXiv 1910.02054, section 3 and figure 1): bf16 weights and gradients of 2 bytes a
parameter, and 12 for AdamW's fp32 weights and two moments. Activations are counted tensor by tensor for a Qwen2 layer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from octupus.config import ModelSection, TrainSection

GB = 1e9
BUCKET_ELEMENTS = 200_000_000
"""DeepSpeed's communication buckets, as octupus.train.deepspeed sets them."""
LIVE_ELEMENTS = 1_000_000_000
"""Parameters that ZeRO-3 lets be gathered at a time (its default)."""
LOGIT_ELEMENTS = 1 << 28
"""Logits held at a time by octupus.train.loss on a GPU."""
RUNTIME_GB = 2.0
"""CUDA context, NCCL and cuBLAS work spaces."""
FRAGMENTED = 1.08
"""What the caching allocator holds over what is in use."""
ASSUMED_MFU = 0.40
PEAK_BF16 = {"H200": 989e12, "H100": 989e12, "H800": 989e12, "A100": 312e12, "A800": 312e12, "L40S": 362e12}
"""Dense bf16 operations per second of a GPU, from its data sheet (SXM where there are several)."""

_WIDE, _NARROW = {"vocab": 151936, "tied": True}, {"vocab": 152064, "tied": False}
PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-0.5B": {"width": 896, "inner": 4864, "layers": 24, "heads": 14, "kv_heads": 2, **_WIDE},
    "Qwen/Qwen2.5-1.5B": {"width": 1536, "inner": 8960, "layers": 28, "heads": 12, "kv_heads": 2, **_WIDE},
    "Qwen/Qwen2.5-3B": {"width": 2048, "inner": 11008, "layers": 36, "heads": 16, "kv_heads": 2, **_WIDE},
    "Qwen/Qwen2.5-7B": {"width": 3584, "inner": 18944, "layers": 28, "heads": 28, "kv_heads": 4, **_NARROW},
    "Qwen/Qwen2.5-14B": {"width": 5120, "inner": 13824, "layers": 48, "heads": 40, "kv_heads": 8, **_NARROW},
    "Qwen/Qwen2.5-32B": {"width": 5120, "inner": 27648, "layers": 64, "heads": 40, "kv_heads": 8, **_NARROW},
}
"""From the config.json that each model was published with; a model in a local folder is read from its own."""


@dataclass(frozen=True)
class Shape:
    """A decoder like Qwen2's: grouped attention with biased q, k, v, a gated MLP, RMSNorm."""

    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool
    head_width: int = 0
    """0: ``width / heads``."""

    @property
    def queries(self) -> int:
        return (self.head_width or self.width // self.heads) * self.heads

    @property
    def keys(self) -> int:
        return (self.head_width or self.width // self.heads) * self.kv_heads

    @property
    def layer_matrices(self) -> int:
        """Elements of a layer's weight matrices."""
        return self.width * (2 * self.queries + 2 * self.keys) + 3 * self.width * self.inner

    @property
    def parameters(self) -> int:
        layer = self.layer_matrices + self.queries + 2 * self.keys + 2 * self.width
        return self.layers * layer + self.width + self.vocab * self.width * (1 if self.tied else 2)

    @staticmethod
    def of_config(config: Mapping[str, Any]) -> Shape:
        """From a Hugging Face ``config.json``."""
        return Shape(
            width=config["hidden_size"],
            inner=config["intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
            vocab=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings")),
            head_width=config.get("head_dim") or 0,
        )

    @staticmethod
    def of(model: ModelSection) -> Shape | None:
        """Of a recipe's model; None where nothing here knows it before it is fetched."""
        if (made := model.scratch) is not None:
            shape = (made.hidden_size, made.intermediate_size, made.layers, made.heads, made.kv_heads, made.vocab_size)
            return Shape(*shape, tied=made.tied)
        assert model.base is not None
        if (config := Path(model.base) / "config.json").is_file():
            return Shape.of_config(json.loads(config.read_text(encoding="utf-8")))
        known = PUBLISHED.get(model.base.removesuffix("-Instruct"))
        return None if known is None else Shape(**known)


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of forward and backward, recomputation not counted (as MFU is defined)."""

    token: float
    square: float
    """Attention: of the sum of squared document lengths, the causal half."""
    supervised: float
    """The head, which runs over supervised positions only."""

    @staticmethod
    def of(shape: Shape) -> Cost:
        layers = 6.0 * shape.layers
        return Cost(layers * shape.layer_matrices, layers * shape.queries, 6.0 * shape.width * shape.vocab)

    def of_step(self, tokens: float, squares: float, supervised: float) -> float:
        return self.token * tokens + self.square * squares + self.supervised * supervised


def peak(gpu: str) -> float | None:
    """Dense bf16 operations per second of a GPU by its name, None where it is not known."""
    return next((flops for part, flops in PEAK_BF16.items() if part.lower() in gpu.lower()), None)


def memory(shape: Shape, section: TrainSection, context: int) -> dict[str, float]:
    """GB of one GPU at the peak of a step, by what holds them.

    Args:
        context: tokens of a packed row.
    """
    zero, offload, ranks = section.deepspeed.zero, section.deepspeed.offload, section.world_size
    count, size = shape.parameters, 2 if section.precision == "bf16" else 4
    embedding = shape.vocab * shape.width * size
    dealt = {stage: ranks if zero >= stage else 1 for stage in (1, 2, 3)}
    gathered = min(count, LIVE_ELEMENTS) * size if zero == 3 else 0
    # fp32 weights and two moments, and the fp32 gradient that one update makes of its share; plain fp32 needs no copies
    state = 8 if zero == 0 and section.precision == "fp32" else 16
    optimizer = 0.0 if offload != "none" else state * count / dealt[1]
    weights = 0.0 if offload == "all" else count * size / dealt[3]
    buckets = 0 if ranks == 1 or zero == 0 else 2 * min(BUCKET_ELEMENTS, count) * size * (2 if zero < 3 else 1)
    tokens = section.micro_batch * context
    norms, attention, mlp = 28 * shape.width, 6 * shape.keys, 8 * shape.inner  # bytes a token keeps of a layer in bf16
    layer = tokens * (norms + attention + mlp) * size / 2
    kept = (
        tokens * shape.width * size * shape.layers + layer if section.gradient_checkpointing else layer * shape.layers
    )
    logits = min(LOGIT_ELEMENTS, tokens * shape.vocab) * (4 + 2 * size)
    parts = {
        "weights": weights + gathered,
        "gradients": count * size / dealt[2] + embedding,
        "optimizer": optimizer,
        "buckets": buckets,
        "activations": kept,
        "head": logits + embedding,
    }
    return {name: part / GB * FRAGMENTED for name, part in parts.items()} | {"runtime": RUNTIME_GB}


def fitting(shape: Shape, section: TrainSection, context: int, limit_gb: float) -> dict[str, Any] | None:
    """The mildest changes of a stage's values, by their path within the section, with which it would fit."""
    for changes in _alternatives(section):
        values = section.model_dump()
        for path, value in changes.items():
            target = values["deepspeed"] if "." in path else values
            target[path.rpartition(".")[2]] = value
        if sum(memory(shape, TrainSection.model_validate(values), context).values()) <= limit_gb:
            return changes
    return None


def _alternatives(section: TrainSection) -> Iterator[dict[str, Any]]:
    """Cheapest first: what costs little speed before what costs much."""
    now = {
        "gradient_checkpointing": section.gradient_checkpointing,
        "micro_batch": section.micro_batch,
        "deepspeed.zero": section.deepspeed.zero,
        "deepspeed.offload": section.deepspeed.offload,
    }
    batches = [n for n in range(section.micro_batch, 0, -1) if section.micro_batch % n == 0]
    zeros = sorted({max(section.deepspeed.zero, least) for least in (0, 2, 3)})
    offloads = ["none", "optimizer", "all"][["none", "optimizer", "all"].index(section.deepspeed.offload) :]
    for offload, zero, micro in product(offloads, zeros, batches):
        for checkpointing in sorted({section.gradient_checkpointing, True}):
            if zero < {"none": 0, "optimizer": 1, "all": 3}[offload]:
                continue  # DeepSpeed cannot
            then = dict(zip(now, (checkpointing, micro, zero, offload), strict=True))
            yield {path: value for path, value in then.items() if value != now[path]}


@dataclass(frozen=True)
class Hours:
    """GPU-hours of a stage and where the rate comes from."""

    gpu_hours: float
    steps: int
    """That they are for."""
    source: str


def gpu_hours(
    shape: Shape, section: TrainSection, context: int, steps: int, gpu: str, measured: float | None = None
) -> Hours:
    """Of ``steps`` optimizer steps, every token supervised and every document as long as the context: an upper bound.

    Args:
        gpu: its name, from the cluster file; unknown ones are taken for an A100.
        measured: tokens per second of the whole stage, where this run has been trained before.
    """
    tokens = float(section.global_batch * context) * steps
    if measured:
        seconds, source = tokens / measured, f"{measured:,.0f} tokens/s, as this stage ran before"
        return Hours(seconds * section.world_size / 3600, steps, source)
    known = next((part for part in PEAK_BF16 if part.lower() in gpu.lower()), None)
    name = known or "A100"
    work = Cost.of(shape).of_step(tokens, tokens * context, tokens)
    told = f"{name}'s" if known else f"{name}'s, as the cluster file names no GPU that is known,"
    source = f"assumed: {ASSUMED_MFU:.0%} of an {told} {PEAK_BF16[name] / 1e12:,.0f} TFLOPS; not measured"
    return Hours(work / (ASSUMED_MFU * PEAK_BF16[name]) / 3600, steps, source)


def local_gpu() -> tuple[str, float] | None:
    """Name and memory in GB of this machine's first GPU, from its driver; None where there is none to ask."""
    import subprocess

    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True, env=os.environ)
        name, mebibytes = done.stdout.strip().rsplit(",", 1)
        return name.strip(), float(mebibytes) * 2**20 / GB
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def main() -> None:
    """A table: what each published size needs with a recipe's values, and what would make it fit."""
    import argparse

    from octupus.config import load

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--recipe", default="v2")
    parser.add_argument("--gpu-memory-gb", type=float, default=80.0)
    asked = parser.parse_args()
    recipe = load(asked.recipe)
    stages = {"stage1": (recipe.stage1, recipe.data.stage1), "stage2": (recipe.stage2, recipe.data.stage2)}
    head = " | ".join(f"{stage}, GB a GPU | fits {asked.gpu_memory_gb:g} GB" for stage in stages)
    print(f"| model | {head} |\n|---|---:|---|---:|---|")
    for name, known in PUBLISHED.items():
        shape, cells = Shape(**known), []
        for stage, (section, data) in stages.items():
            changes = fitting(shape, section, data.context, asked.gpu_memory_gb)
            words = " ".join(f"{stage}.{path}={value}" for path, value in (changes or {}).items())
            cells += [f"{sum(memory(shape, section, data.context).values()):.0f}"]
            cells += ["no" if changes is None else f"with `{words}`" if words else "yes"]
        print(f"| {name.split('/')[1]} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
