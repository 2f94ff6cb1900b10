"""From the recipe's typed values to a DeepSpeed engine; the only file that knows DeepSpeed's configuration."""

from __future__ import annotations

import math
import os
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # spares a probe, and a warning about what it found
import deepspeed
from torch import nn

from octupus.config import TrainSection
from octupus.errors import ConfigError
from octupus.train.ranks import Ranks

# Built with a compiler on the first use on a CPU, for shared memory collectives that gloo does as well.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

BUCKET_ELEMENTS = 200_000_000


def accumulation(section: TrainSection, world: int) -> int:
    """Micro-batches of a rank in one optimizer step, at the world size that is really there.

    Raises:
        ConfigError: the global batch cannot be dealt to these ranks.
    """
    rows = section.micro_batch * world
    if section.global_batch % rows:
        near = sorted({max(1, section.global_batch // rows) * rows, (section.global_batch // rows + 1) * rows})
        raise ConfigError(
            f"global_batch {section.global_batch} does not divide by {world} ranks x micro_batch {section.micro_batch};"
            f" {' or '.join(map(str, near))} would"
        )
    return section.global_batch // rows


def settings(section: TrainSection, world: int, parameters: int, device: str) -> dict[str, Any]:
    """The ``config`` of ``deepspeed.initialize``.

    Args:
        parameters: of the model; buckets larger than that would only reserve memory.
        device: ``cpu`` or ``cuda``.
    """
    bucket = max(1, min(BUCKET_ELEMENTS, parameters))
    zero: dict[str, Any] = {
        "stage": section.deepspeed.zero,
        "overlap_comm": section.deepspeed.overlap and device != "cpu",
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    if section.deepspeed.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": device != "cpu"}
    if section.deepspeed.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": device != "cpu"}
    return {
        "train_micro_batch_size_per_gpu": section.micro_batch,
        "gradient_accumulation_steps": accumulation(section, world),
        "gradient_clipping": 0.0 if _plain(section) else section.clip,
        "bf16": {"enabled": section.precision == "bf16"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW is vectorised on a CPU and needs no compiler
    }


def optimizer(module: nn.Module, section: TrainSection) -> torch.optim.Optimizer:
    """torch's fused AdamW; vectors (norms, biases) never decay."""
    named = [p for p in module.parameters() if p.requires_grad]
    if section.weight_decay:
        groups = [
            {"params": [p for p in named if _dimensions(p) > 1], "weight_decay": section.weight_decay},
            {"params": [p for p in named if _dimensions(p) <= 1], "weight_decay": 0.0},
        ]
    else:
        groups = [{"params": named, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=section.lr, betas=(0.9, section.beta2), fused=True)


def _dimensions(parameter: nn.Parameter) -> int:
    shape = getattr(parameter, "ds_shape", parameter.shape)  # ZeRO-3 leaves an empty tensor and notes the shape
    return len(shape)


def engine(module: nn.Module, section: TrainSection, ranks: Ranks, universal: bool = False) -> Any:
    """``deepspeed.initialize`` around ``module``: a DeepSpeedEngine, untyped because DeepSpeed has no types."""
    parameters = sum(getattr(p, "ds_numel", p.numel()) for p in module.parameters())
    config = settings(section, ranks.world, parameters, ranks.device.type) | {
        "checkpoint": {"load_universal": universal}
    }
    wrapped, *_ = deepspeed.initialize(model=module, optimizer=optimizer(module, section), config=config)
    if section.deepspeed.zero == 0 and section.precision == "bf16":
        # DeepSpeed 0.19.8 makes AdamW's state here by an update without gradient. It would count as a step, so that the
        # first real ones were a quarter too small, and the weights have decayed.
        wrapped.optimizer.optimizer.state.clear()
        wrapped.optimizer.refresh_fp32_params()
    return wrapped


def set_learning_rate(wrapped: Any, value: float) -> None:
    """A pure function of the step decides it, so there is no scheduler whose state a checkpoint could lose."""
    for group in wrapped.optimizer.param_groups:
        group["lr"] = value


def _plain(section: TrainSection) -> bool:
    """fp32 without ZeRO: DeepSpeed then drives the bare optimizer, which neither measures nor refuses a gradient."""
    return section.deepspeed.zero == 0 and section.precision == "fp32"


def update(wrapped: Any, section: TrainSection) -> float | None:
    """Clip and update after the last micro-batch of a step.

    Returns:
        The global gradient norm before clipping; None where it was not finite, and then nothing was updated.
    """
    if _plain(section):
        norm = float(nn.utils.clip_grad_norm_(wrapped.module.parameters(), section.clip))
        if not math.isfinite(norm):
            wrapped.zero_grad()  # AdamW passes over a parameter without gradient
        wrapped.step()
    else:
        wrapped.step()
        norm = float(wrapped.get_global_grad_norm()) if wrapped.was_step_applied() else math.inf
    return norm if math.isfinite(norm) else None
