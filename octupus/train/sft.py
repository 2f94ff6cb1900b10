"""Supervised fine-tuning: the loop, readable from top to bottom. Every rank calls :func:`run`.

The loss is summed over the supervised tokens and divided by their number over ALL ranks and micro-batches of a step:
packing, accumulation and world size are then layout and not mathematics. DeepSpeed averages gradients over ranks, so
the sum is multiplied by their number first; its own division by the accumulation is switched off.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from octupus.config import Recipe, TrainSection
from octupus.data.batches import Batch, Batches
from octupus.data.shards import Shards
from octupus.errors import DataError, Interrupted, JobError
from octupus.estimate import Cost, Shape
from octupus.runs import Run, Stage, check_current
from octupus.tokenizer import load_wire
from octupus.train import checkpoint, deepspeed, model
from octupus.train.card import card
from octupus.train.metrics import Metrics, Stopwatch, keep_until, mfu
from octupus.train.ranks import Interrupts, Ranks, join
from octupus.train.validate import Validation
from octupus.train.watchdog import Watchdog
from octupus.wire import Wire
from octupus.wire.export import check_fingerprint

StageName = Literal["stage1", "stage2"]


@dataclass(frozen=True)
class Job:
    """What one stage's training on one rank consists of."""

    stage: StageName
    section: TrainSection
    folder: Stage
    batches: Batches
    total: int
    """Optimizer steps."""
    ranks: Ranks
    validation: Validation | None

    @property
    def checkpoints(self) -> Path:
        return self.folder.path / "checkpoints"


def run(recipe: Recipe, run: Run, stage: StageName) -> dict[str, Any]:
    """Train one stage and export it; called again, it goes on from the newest complete checkpoint.

    Returns:
        On the first rank the outputs: model folder, steps, tokens, last loss. On the others nothing.

    Raises:
        OctupusError: what is missing, does not fit or failed, and what to do.
        Interrupted: a signal asked to stop; the checkpoint is written, and the same call goes on from it.
    """
    section: TrainSection = {"stage1": recipe.stage1, "stage2": recipe.stage2}[stage]
    with Interrupts() as interrupts, join(section.ranks_per_node) as ranks:
        start, shards, wire = materials(run, stage)
        turns = deepspeed.accumulation(section, ranks.world)
        batches = Batches(shards, ranks.rank, ranks.world, section.micro_batch, turns, section.seed, section.epochs)
        total = min(batches.steps, section.max_steps or batches.steps)
        held_out = held_out_data(run, section, wire, shards.manifest.context, ranks)
        job = Job(stage, section, run.stage(stage), batches, total, ranks, held_out)
        exported = job.folder.path / "export"

        values, zero = decisive(section, shards, total), section.deepspeed.zero
        found, ready = ranks.agreed(lambda: (checkpoint.newest(job.checkpoints), (exported / "config.json").is_file()))
        if found is not None:
            checkpoint.check(found, job.checkpoints, zero, values)
        if found is None or found.step < total or not ready:
            objective, engine = build(start, section, ranks, universal=checkpoint.foreign(found, section, ranks))
            if found is not None:
                checkpoint.load(engine, job.checkpoints, found, ranks)
            step, bad_steps = (found.step, found.bad_steps) if found is not None else (0, 0)
            state = checkpoint.Complete(step, ranks.world, zero, bad_steps, values)
            with Watchdog(job.folder.path / "ranks", ranks.rank, ranks.world, section.hang_after_s) as watchdog:
                loop(job, engine, state, interrupts, watchdog)
            check_current()
            about = card(recipe, run, stage, outputs(run, job.folder)) if ranks.first else ""
            model.export(objective, start, exported, section.precision, about, write=ranks.first, zero3=zero == 3)
            ranks.wait()
        return outputs(run, job.folder) if ranks.first else {}


def loop(job: Job, engine: Any, state: checkpoint.Complete, interrupts: Interrupts, watchdog: Watchdog) -> None:
    """From ``state`` to the last step, with a checkpoint at the end in any case."""
    section, ranks, saved = job.section, job.ranks, state.step
    cost = Cost.of(Shape.of_config(engine.module.model.config.to_dict()))
    with recording(job, state.step) as metrics, Ahead(job.batches, state.step, job.total) as ahead:
        while state.step < job.total:
            watchdog.beat(f"step {state.step + 1}")
            began = time.perf_counter()
            work = ahead.take(state.step)
            waited = time.perf_counter() - began
            supervised, tokens, squares, stop = ranks.total([*sizes(work), interrupts.received is not None])
            if stop:
                if state.step > saved:
                    watchdog.beat(f"the checkpoint of step {state.step}", patience=4)
                    checkpoint.save(engine, job.checkpoints, state, ranks, section.keep_checkpoints)
                raise Interrupted(
                    f"{job.stage} stopped at step {state.step} of {job.total}, as a signal asked; run again to go on"
                )

            rate = learning_rate(section, state.step, job.total)
            deepspeed.set_learning_rate(engine, rate)
            torch.manual_seed((section.seed * 1_000_003 + state.step) * ranks.world + ranks.rank)
            loss_sum, norm, forward = train_step(engine, section, work, supervised, ranks)
            loss = ranks.total([loss_sum])[0] / supervised
            state = replace(state, step=state.step + 1)
            if norm is None or not math.isfinite(loss):
                state = replace(state, bad_steps=state.bad_steps + 1)
                keep_bad_batch(job, state, work)

            seconds, waits, forwards = time.perf_counter() - began, ranks.gather(waited), ranks.gather(forward)
            held_out = validated(job, engine, state.step, watchdog)
            if metrics is not None:
                row = {"loss": loss if math.isfinite(loss) else None, "grad_norm": norm, "lr": rate}
                row |= {"tokens": int(tokens), "supervised": int(supervised), "tokens_per_s": tokens / seconds}
                row |= {"supervised_per_s": supervised / seconds, "seconds": seconds, "data_wait": max(waits)}
                row |= {"mfu": mfu(cost.of_step(tokens, squares, supervised), seconds, ranks.world)}
                metrics.step(state.step, {**row, "bad_steps": state.bad_steps, **held_out}, forwards)
            if state.step % section.checkpoint_every == 0 or state.step == job.total:
                watchdog.beat(f"the checkpoint of step {state.step}", patience=4)
                checkpoint.save(engine, job.checkpoints, state, ranks, section.keep_checkpoints)
                saved = state.step


def train_step(
    engine: Any, section: TrainSection, work: list[Batch], supervised: float, ranks: Ranks
) -> tuple[float, float | None, float]:
    """Forward and backward of every micro-batch, then one update.

    Returns:
        This rank's summed loss; the global gradient norm before clipping, None where it was not finite and the update
        therefore left out (by all ranks alike); this rank's seconds in forward passes.
    """
    summed, forward = torch.zeros((), device=ranks.device), Stopwatch(ranks.device)
    norm: float | None = None
    for turn, batch in enumerate(work, 1):
        with forward:
            loss = engine(model.Inputs.of(batch, ranks.device))
        engine.backward(loss * (ranks.world / supervised), scale_wrt_gas=False)
        if turn < len(work):
            engine.step()  # counts the micro-batch
        else:
            norm = deepspeed.update(engine, section)
        summed += loss.detach()
    return float(summed), norm, forward.seconds


def validated(job: Job, engine: Any, step: int, watchdog: Watchdog) -> dict[str, Any]:
    """What held-out data say after ``step``, where it is time to ask."""
    every = job.section.validate_every
    if job.validation is None or not every or (step % every and step != job.total):
        return {}
    watchdog.beat(f"the validation after step {step}", patience=4)
    return job.validation.measure(engine, job.ranks)


def held_out_data(run: Run, section: TrainSection, wire: Wire, context: int, ranks: Ranks) -> Validation | None:
    path = run.stage("data").path / "heldout.jsonl"
    return Validation.of(path, wire, context, section.validate_conversations, ranks) if section.validate_every else None


def sizes(work: list[Batch]) -> list[float]:
    """Supervised tokens, tokens, and the sum of squared document lengths, which attention costs."""
    squares = (int(np.square(np.diff(b.bounds).astype(np.int64)).sum()) for b in work)
    return [sum(b.supervised for b in work), sum(b.input_ids.size for b in work), sum(squares)]


def learning_rate(section: TrainSection, step: int, total: int) -> float:
    """Of the update from ``step`` to ``step + 1``: a straight line up to lr, then a cosine down to min_lr."""
    if step < section.warmup_steps:
        return section.lr * (step + 1) / section.warmup_steps
    progress = (step + 1 - section.warmup_steps) / max(1, total - section.warmup_steps)
    return section.min_lr + (section.lr - section.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def materials(run: Run, stage: StageName) -> tuple[Path, Shards, Wire]:
    """The model folder that a stage starts from, its shards and the wire format that both were made for.

    Raises:
        JobError: no model yet. DataError: no usable shards. WireError: shards of another wire format.
    """
    start, maker = {
        "stage1": (run.path / "surgery" / "model", "make surgery"),
        "stage2": (run.path / "stage1" / "export", "make stage1"),
    }[stage]
    if not (start / "config.json").is_file():
        raise JobError(f"{stage} starts from {start}, which does not exist; run: {maker} RUN={run.name}")
    wire, tokenizer = load_wire(start)
    shards = Shards(run.stage("data").path / stage)
    remake = f"make data RUN={run.name} FRESH=1"
    check_fingerprint(shards.manifest.fingerprint, wire.fingerprint, f"the data in {shards.folder}", remake)
    if not len(shards):
        raise DataError(f"holds no rows; give data.{stage}.sources some and run: {remake}", source=str(shards.folder))
    rows = json.loads((start / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    if tokenizer.size > rows:
        raise JobError(
            f"{start}: its tokenizer has ids up to {tokenizer.size - 1}, but the model {rows} embedding rows; "
            f"run: make surgery RUN={run.name} FRESH=1"
        )
    return start, shards, wire


def build(start: Path, section: TrainSection, ranks: Ranks, universal: bool) -> tuple[model.Objective, Any]:
    """The objective and the DeepSpeed engine around it, ready for a ``universal`` checkpoint or an ordinary one."""
    zero3 = section.deepspeed.zero == 3
    config = deepspeed.settings(section, ranks.world, deepspeed.BUCKET_ELEMENTS, ranks.device.type) if zero3 else None
    objective = model.load(start, section.precision, section.gradient_checkpointing, config)
    return objective, deepspeed.engine(objective, section, ranks, universal)


LAYOUT = {
    *("nodes", "ranks_per_node", "micro_batch", "deepspeed", "gradient_checkpointing"),
    *("epochs", "max_steps", "checkpoint_every", "keep_checkpoints", "max_bad_steps", "hang_after_s"),
    *("validate_every", "validate_conversations"),
}


def decisive(section: TrainSection, shards: Shards, total: int) -> dict[str, Any]:
    """Every value that decides the numbers of a run; what only lays it out differently is left out."""
    values = section.model_dump(mode="json", exclude=LAYOUT)
    data = {name: facts.sha256[:16] for name, facts in shards.manifest.files.items()}
    return {**values, "steps": total, "data": data, "wire": shards.manifest.fingerprint}


class Ahead:
    """Reads the next step's batches while this one is computed.

    Raises:
        DataError: (from :meth:`take`) a row in which nothing is supervised.
    """

    def __init__(self, batches: Batches, begin: int, total: int) -> None:
        self.batches, self.total = batches, total
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next = self._pool.submit(self._read, begin) if begin < total else None

    def _read(self, step: int) -> list[Batch]:
        for row in (row for rows in self.batches.rows(step) for row in rows):
            found = self.batches.shards[row]
            if not np.delete(found.mask, found.starts).any():  # nothing predicts a document's first token
                raise DataError(
                    "nothing in it is supervised; run: make data FRESH=1",
                    source="shards",
                    row=row,
                )
        return self.batches.at(step)

    def take(self, step: int) -> list[Batch]:
        assert self._next is not None
        work = self._next.result()
        self._next = self._pool.submit(self._read, step + 1) if step + 1 < self.total else None
        return work

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)


@contextmanager
def recording(job: Job, step: int) -> Iterator[Metrics | None]:
    """The first rank's metrics; what a killed run recorded beyond ``step`` is dropped."""
    if not job.ranks.first:
        yield None
        return
    keep_until(job.folder.metrics, step)
    with job.folder.reporting(job.total, "steps") as reporter:
        reporter.update(step)
        where = f"from step {step} of {job.total}" if step else f"{job.total} steps"
        print(f"{job.stage}: {where}, {job.ranks.world} ranks on {job.ranks.device.type}", flush=True)
        metrics = Metrics(job.folder, reporter, job.stage, job.total, step)
        yield metrics
        metrics.board.close()


def keep_bad_batch(job: Job, state: checkpoint.Complete, work: list[Batch]) -> None:
    """Save what led to a loss or gradient that is not finite, so that it can be looked at.

    Raises:
        JobError: it was one too many.
    """
    folder = job.folder.path / "bad"
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {f"{key}_{i}": getattr(b, key) for i, b in enumerate(work) for key in ("input_ids", "labels", "bounds")}
    np.savez_compressed(folder / f"step-{state.step:08d}-rank-{job.ranks.rank}.npz", allow_pickle=False, **arrays)
    if state.bad_steps >= job.section.max_bad_steps:
        raise JobError(
            f"{job.stage}: loss or gradient was not finite in {state.bad_steps} steps, the last one step {state.step}; "
            f"those updates were left out and their batches are in {folder}. Lower {job.stage}.lr, or look for broken "
            "data there; running again goes on from the newest checkpoint"
        )


def outputs(run: Run, folder: Stage) -> dict[str, Any]:
    """What the stage hands on, for its state.json."""
    rows = [json.loads(line) for line in folder.metrics.read_text(encoding="utf-8").splitlines()]
    held_out = {key: value for key, value in rows[-1].items() if key.startswith("val_")}
    return {
        "model": str((folder.path / "export").relative_to(run.path)),
        "steps": rows[-1]["step"],
        "loss": rows[-1]["loss"],
        "tokens": sum(row["tokens"] for row in rows),
        "supervised_tokens": sum(row["supervised"] for row in rows),
        "bad_steps": rows[-1]["bad_steps"],
        **held_out,
    }
