"""Checkpoints that are whole or do not count: DeepSpeed writes, a marker published last says that all ranks have.

``checkpoints/step-00000200/`` holds DeepSpeed's files and ``complete.json``. What to resume from is found by looking
for the newest marker; nothing remembers a path. Neither data order, learning rate nor RNG is stored: each is a pure
function of the step (octupus.data.batches, sft.py).
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from octupus.config import TrainSection
from octupus.errors import ConfigError, JobError
from octupus.publish import publish_json
from octupus.runs import check_current
from octupus.train.ranks import Ranks

MARKER = "complete.json"


@dataclass(frozen=True)
class Complete:
    """``complete.json``: how far a run has come."""

    step: int
    """Optimizer steps done."""
    world: int
    zero: int
    bad_steps: int
    """Steps left out because loss or gradient was not finite."""
    values: dict[str, Any]
    """Everything that decides the numbers; a run with others must not go on from here."""


def name(step: int) -> str:
    return f"step-{step:08d}"


def newest(folder: Path) -> Complete | None:
    """The newest complete checkpoint in ``folder``, whatever half-written ones lie beside it."""
    markers = sorted(folder.glob(f"step-*/{MARKER}"), reverse=True)
    return Complete(**json.loads(markers[0].read_text(encoding="utf-8"))) if markers else None


def save(engine: Any, folder: Path, complete: Complete, ranks: Ranks, keep: int) -> None:
    """Write a checkpoint with all ranks, publish it, and remove those that are too old.

    Raises:
        JobError: it could not be written; the checkpoints before it are as they were. Superseded: a newer start of
            this job has taken over, and what lies there is its.
    """
    tag = name(complete.step)
    if ranks.first:
        check_current()
        shutil.rmtree(folder / tag, ignore_errors=True)  # half of one, from a run that died here
    ranks.wait()
    try:
        engine.save_checkpoint(str(folder), tag=tag, save_latest=False)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(w in str(error) for w in ("inline_container", "StreamWriter")):
            raise
        why, left = str(error).splitlines()[0], shutil.disk_usage(folder).free >> 20
        raise JobError(
            f"rank {ranks.rank} could not write {folder / tag} ({left:,} MB are free there): {why}; free some space "
            "and run the same command again to go on from the checkpoint before it"
        ) from error
    ranks.wait()
    if ranks.first:
        check_current()
        publish_json(folder / tag / MARKER, asdict(complete))
        _prune(folder, complete.step, keep)


def _prune(folder: Path, step: int, keep: int) -> None:
    complete = sorted((p.parent for p in folder.glob(f"step-*/{MARKER}")), reverse=True)
    for path in folder.glob("step-*"):
        if path not in complete[:keep] and path.name <= name(step):
            (path / MARKER).unlink(missing_ok=True)  # first: a half-deleted checkpoint must not count
            shutil.rmtree(path)


def check(found: Complete, folder: Path, zero: int, values: Mapping[str, Any]) -> None:
    """Refuse to go on from a checkpoint of another run.

    Raises:
        ConfigError: naming each value that differs.
    """
    changed = [
        f"{key} {found.values.get(key)!r} there, {values.get(key)!r} now"
        for key in sorted({*values, *found.values})
        if found.values.get(key) != values.get(key)
    ]
    if found.zero != zero and {found.zero, zero} != {1, 2}:
        changed.append(f"deepspeed.zero {found.zero} there, {zero} now")
    if changed:
        raise ConfigError(
            f"{folder / name(found.step)} was made with other values: {'; '.join(changed)}. "
            "Put them back to go on from there, start over with FRESH=1, or choose another RUN"
        )


def foreign(found: Complete | None, section: TrainSection, ranks: Ranks) -> bool:
    """Whether its optimizer state was dealt to another number of ranks, or by another ZeRO stage.

    ZeRO-0 deals nothing: its checkpoint suits any number of ranks (and check() lets no other stage load it).
    """
    if found is None or found.zero == 0:
        return False
    return (found.world, found.zero) != (ranks.world, section.deepspeed.zero)


def load(engine: Any, folder: Path, found: Complete, ranks: Ranks) -> None:
    """Put weights, optimizer and counters back; ``engine`` was built knowing whether they are :func:`foreign`."""
    tag = name(found.step)
    if engine.load_universal_checkpoint():
        if ranks.first:
            _universal(folder / tag, folder / "universal")
        ranks.wait()
        tag = "universal"
    decays = [group["weight_decay"] for group in engine.optimizer.param_groups]
    engine.load_checkpoint(str(folder), tag=tag)
    ranks.wait()
    if tag != "universal":
        return
    # DeepSpeed 0.19.8 gives, in ZeRO-3, the first group's values to every group, and ONE step counter to all of them,
    # which AdamW then raises once a group.
    for group, decay in zip(engine.optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay
    for state in engine.optimizer.optimizer.state.values():
        state["step"] = state["step"].clone()
    if ranks.first:
        shutil.rmtree(folder / tag, ignore_errors=True)


def _universal(source: Path, target: Path) -> None:
    """DeepSpeed's conversion to one file a parameter, from which any number of ranks can load."""
    from deepspeed.checkpoint import ds_to_universal

    shutil.rmtree(target, ignore_errors=True)
    print(f"converting {source.name} for another number of ranks or ZeRO stage", flush=True)
    ds_to_universal.main(
        argparse.Namespace(
            input_folder=str(source),
            output_folder=str(target),
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,
        )
    )
