"""A kept DeepSpeed checkpoint as a folder that can be served; no process group, no GPU."""

from __future__ import annotations

from pathlib import Path

from octupus.errors import JobError
from octupus.train.model import DTYPES, publish_weights


def unshard(checkpoint: Path, like: Path, folder: Path, precision: str) -> None:
    """Gather the weights of ``checkpoint`` (a step's folder); everything else byte for byte from ``like``.

    Raises:
        JobError: not a whole checkpoint, or the disk is full.
    """
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    try:
        state = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint.parent), checkpoint.name)
    except (OSError, ValueError, KeyError) as error:
        raise JobError(f"{checkpoint} cannot be read as a checkpoint: {error}") from error
    # Objective (octupus/train/model.py) holds the model as ``model`` and its head once more; cloned, because the values
    # are views of one flat tensor.
    mine = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
    weights = {name: value.to(DTYPES[precision]).clone() for name, value in mine.items()}
    if "lm_head.weight" in weights and weights["lm_head.weight"].equal(weights["model.embed_tokens.weight"]):
        del weights["lm_head.weight"]
    publish_weights(weights, like, folder, precision)
