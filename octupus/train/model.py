"""The model as training sees it: weights in, one packed micro-batch to a summed loss, weights out."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from octupus.data.batches import IGNORE, Batch
from octupus.errors import JobError
from octupus.train import attention
from octupus.train.attention import Packing
from octupus.train.loss import judged, summed_cross_entropy

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Inputs:
    """A micro-batch on the device: what :class:`Objective` takes."""

    input_ids: Tensor
    position_ids: Tensor
    packing: Packing
    positions: Tensor
    """[n] places in T whose next token is supervised."""
    targets: Tensor
    """[n] those next tokens."""

    @staticmethod
    def of(batch: Batch, device: torch.device) -> Inputs:
        labels = torch.from_numpy(batch.labels[0])
        positions = (labels != IGNORE).nonzero()[:, 0]
        return Inputs(
            input_ids=torch.from_numpy(batch.input_ids).to(device, non_blocking=True),
            position_ids=torch.from_numpy(batch.position_ids).to(device, non_blocking=True),
            packing=Packing.of(tuple((batch.bounds[1:] - batch.bounds[:-1]).tolist()), device),
            positions=positions.to(device, non_blocking=True),
            targets=labels[positions].to(device, non_blocking=True),
        )


class Head(nn.Module):
    """The language model's head and the loss as one step.

    It holds the head's own parameter: ZeRO-3 gathers what a module owns when the module is called.
    """

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, hidden: Tensor, targets: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return (summed_cross_entropy if self.training else judged)(hidden, self.weight, targets)


class Objective(nn.Module):
    """``Inputs -> sum of the supervised tokens' losses`` (nats, fp32); in eval mode what :func:`judged` says."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.head = Head(model.get_output_embeddings().weight)

    def forward(self, inputs: Inputs) -> Tensor | tuple[Tensor, Tensor]:
        hidden = self.model.base_model(
            input_ids=inputs.input_ids,
            position_ids=inputs.position_ids,
            packing=inputs.packing,
            use_cache=False,
        ).last_hidden_state
        found: Tensor | tuple[Tensor, Tensor] = self.head(hidden[0].index_select(0, inputs.positions), inputs.targets)
        return found


def load(folder: Path, precision: str, gradient_checkpointing: bool, zero3: dict[str, Any] | None = None) -> Objective:
    """The model in ``folder``, with attention over packed rows.

    Args:
        zero3: DeepSpeed's config under ZeRO-3: the weights are dealt to the ranks while they are read.

    Raises:
        JobError: no usable model there.
    """
    from transformers.integrations import HfDeepSpeedConfig
    from transformers.utils import logging

    logging.disable_progress_bar()

    keep = HfDeepSpeedConfig(zero3) if zero3 is not None else None  # transformers looks whether this object lives
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=DTYPES[precision], attn_implementation=attention.register(), local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise JobError(f"{folder} holds no model that can be trained: {error}") from error
    finally:
        del keep
    _check_attention(folder, model.config)
    model.config.use_cache = False
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return Objective(model.train())


def _check_attention(folder: Path, config: Any) -> None:
    """Packed attention is full, causal and without dropout; a model that asks for another must not be trained as that.

    Raises:
        JobError: naming what the config asks for.
    """
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])  # absent in configs of other architectures
    asked = {f"layer_types {kind}" for kind in kinds - {"full_attention"}}
    asked |= {"attention_dropout"} if getattr(config, "attention_dropout", 0) else set()
    if asked:
        raise JobError(
            f"{folder}/config.json asks for {', '.join(sorted(asked))}: training here has full attention only"
        )


def export(
    objective: Objective, source: Path, folder: Path, precision: str, card: str, write: bool, zero3: bool
) -> None:
    """Publish a Hugging Face folder: these weights, this model card, and everything else byte for byte from ``source``.

    Tokenizer, chat template, generation config and wire.json are those that the data were rendered with, so they are
    copied and never written anew. Every rank calls it (ZeRO-3 gathers the weights); only the one with ``write`` writes.
    The folder appears whole or not at all.
    """
    weights: dict[str, Tensor] = {}
    for name, parameter in objective.model.named_parameters():
        with _gathered(parameter) if zero3 else nullcontext():
            if write:
                weights[name] = parameter.detach().to("cpu", DTYPES[precision], copy=True)
    if write:
        publish_weights(weights, source, folder, precision, card)


def publish_weights(weights: dict[str, Tensor], source: Path, folder: Path, precision: str, card: str = "") -> None:
    """Write ``folder``: these weights, and everything but weights (and ``card``, if any) byte for byte from ``source``.

    Raises:
        JobError: the disk is full; nothing at ``folder`` has changed.
    """
    half = folder.with_name(f".{folder.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    try:
        for path in sorted(source.iterdir()):
            if path.is_file() and path.suffix not in {".safetensors", ".bin"} and "safetensors.index" not in path.name:
                shutil.copyfile(path, half / path.name)
        if card:
            (half / "README.md").write_text(card, encoding="utf-8")
        _save(weights, half, precision)
    except OSError as error:
        raise JobError(f"cannot write the trained model to {folder}: {error}; free some space and run again") from error
    shutil.rmtree(folder, ignore_errors=True)
    half.rename(folder)


def _save(weights: dict[str, Tensor], folder: Path, precision: str) -> None:
    """``model.safetensors`` (in parts where large) and a config that differs from the source's in the dtype only."""
    import json

    from huggingface_hub import save_torch_state_dict

    save_torch_state_dict(weights, folder, max_shard_size="10GB", metadata={"format": "pt"})
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = {"fp32": "float32", "bf16": "bfloat16"}[precision]
    path.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _gathered(parameter: nn.Parameter) -> Any:
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter])
