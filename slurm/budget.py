"""Whether the training stages of a plan fit the GPUs that they are to get, what a plan will cost, and may cost."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from statistics import median

from octupus import estimate
from octupus.config import Recipe, TrainSection
from octupus.errors import ConfigError
from octupus.estimate import Hours, Shape
from octupus.publish import read_json
from octupus.runs import Run
from slurm import chain, cluster
from slurm.cluster import Cluster
from slurm.env.setup import has_gpu

STAGES = ("stage1", "stage2")
STEPS_MEASURED = 50
UNKNOWN = " a GPU, of how many is not known (gpu_memory_gb of the cluster file), so nothing is refused"


def check(recipe: Recipe, run: Run, where: Cluster, stages: Sequence[str], spent: float = 0.0) -> Iterator[str]:
    """A line for each training stage among ``stages``: memory by part and GPU-hours, or that nothing can be said.

    Raises:
        ConfigError: a stage cannot fit its GPUs (says what it needs and with which values it would), or the plan its
            budget.
    """
    if where.executor == "local" and not has_gpu():
        return
    afford(recipe, run, where, stages, spent)
    todo = [stage for stage in stages if stage in STAGES]
    if not todo or where.device == "cpu":
        return
    shape = Shape.of(recipe.model)
    if shape is None:
        yield f"memory and GPU-hours of {recipe.model.base} cannot be estimated before its config.json is here"
        return
    for stage in todo:
        section: TrainSection = getattr(recipe, stage)
        context: int = getattr(recipe.data, stage).context
        name, limit = _gpu(where, stage)
        parts = estimate.memory(shape, section, context)
        total = sum(parts.values())
        if limit is not None and total > limit:
            raise ConfigError(_too_large(recipe, stage, shape, context, parts, limit))
        yield f"{stage}: about {total:.0f} GB{UNKNOWN if limit is None else f' of {limit:.0f} a GPU'} ({_told(parts)})"
        yield f"{stage}: {_hours(run, stage, shape, section, context, name)}"


def used(recipe: Recipe, where: Cluster, stage: str, seconds: float) -> float:
    """GPU-hours of a job of a stage (of one task of it) that ran for so long."""
    return chain.ranks_of(recipe, stage)[0] * cluster.gpus(where, recipe, stage) * seconds / 3600


def spent(run: Run) -> float:
    """GPU-hours that the run's jobs have taken so far, by their own count."""
    hearts = [run.path / step.name for step in chain.CHAIN]
    places = [place for path in hearts for place in (path, *sorted((path / "tasks").glob("*")))]
    found = [run.stage(str(place.relative_to(run.path))).heartbeat() for place in places]
    return sum(heart.gpu_s for heart in found if heart is not None) / 3600


def afford(recipe: Recipe, run: Run, where: Cluster, stages: Sequence[str], spent: float = 0.0) -> None:
    """Hold what the jobs of ``stages`` are likely to need, on top of ``spent`` GPU-hours, against the budget.

    Asked before a plan is submitted, and again before anything of it is started once more (``stages`` empty: whether
    anything is left at all).

    Raises:
        ConfigError: it is more than ``budget.gpu_hours`` of recipe or cluster file; says what needs how much.
    """
    limits = [b.gpu_hours for b in (recipe.budget, where.budget) if b.gpu_hours is not None]
    if not limits:
        return
    limit = min(limits)
    parts = {stage: _likely(recipe, run, where, stage) for stage in stages}
    needed = spent + sum(hours for hours, _ in parts.values())
    if needed <= limit and (stages or spent < limit):
        return
    told = [f"{stage} {hours:,.1f} ({source})" for stage, (hours, source) in parts.items() if hours]
    told = [*([f"{spent:,.1f} spent"] if spent else []), *told]
    raise ConfigError(
        f"run {run.name}: {needed:,.1f} GPU-hours of the {limit:,.1f} that it may cost (budget.gpu_hours): "
        f"{', '.join(told)}; lower a time limit (time_min of cluster {where.name!r}) or allow more: "
        f'SET="budget.gpu_hours={math.ceil(needed)}"'
        + ("" if recipe.budget.gpu_hours == limit else f" and in cluster {where.name!r}")
    )


def _likely(recipe: Recipe, run: Run, where: Cluster, stage: str) -> tuple[float, str]:
    """GPU-hours of a stage and what they rest on: an estimate of its training, else its time limit."""
    limit, tasks = where.resources(stage).time_min, max(1, len(chain.tasks_of(recipe, stage)))
    at_most = used(recipe, where, stage, limit * 60) * tasks
    shape = Shape.of(recipe.model) if stage in STAGES and where.device != "cpu" and at_most else None
    if shape is not None:
        section, context = getattr(recipe, stage), getattr(recipe.data, stage).context
        steps = _steps(run, stage, section)
        if steps is not None:
            name, _ = _gpu(where, stage)
            hours = estimate.gpu_hours(shape, section, context, steps, name, _measured(run, stage))
            return hours.gpu_hours, f"estimated for {steps:,} steps"
    return at_most, f"its time limit of {limit / 60:g} h" + (f" x {tasks} tasks" if tasks > 1 else "")


def _gpu(where: Cluster, stage: str) -> tuple[str, float | None]:
    """Name, where anything tells it, and memory in GB of the GPUs that a stage gets."""
    wants = where.resources(stage)
    found = estimate.local_gpu() if where.executor == "local" else None
    name, memory = found or ("", None)
    told = " ".join(words for words in (wants.gres, wants.constraint) if words)
    return told or name, wants.gpu_memory_gb or memory


def _told(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {gb:.1f}" for name, gb in parts.items())


def _too_large(recipe: Recipe, stage: str, shape: Shape, context: int, parts: dict[str, float], limit: float) -> str:
    section: TrainSection = getattr(recipe, stage)
    changes = estimate.fitting(shape, section, context, limit)
    would = (
        "no setting of micro_batch, ZeRO and offload would: more nodes, larger GPUs or a smaller model"
        if changes is None
        else 'this would fit: SET="' + " ".join(f"{stage}.{path}={value}" for path, value in changes.items()) + '"'
    )
    return (
        f"recipe {recipe.name!r}: {stage} needs about {sum(parts.values()):.0f} GB a GPU ({_told(parts)}) and has "
        f"{limit:.0f} (gpu_memory_gb of the cluster file); {would}"
    )


def _hours(run: Run, stage: str, shape: Shape, section: TrainSection, context: int, gpu: str) -> str:
    steps = _steps(run, stage, section)
    hours: Hours = estimate.gpu_hours(shape, section, context, steps or 1000, gpu, _measured(run, stage))
    every = f"{hours.steps:,} steps" if steps else "every 1,000 steps (how many there are is known once data is built)"
    return f"about {hours.gpu_hours:,.1f} GPU-hours for {every} ({hours.source})"


def _steps(run: Run, stage: str, section: TrainSection) -> int | None:
    """Optimizer steps of a training stage; None where neither its data is built nor ``max_steps`` given."""
    manifest = read_json(run.stage("data").path / stage / "manifest.json")
    built = None if manifest is None else math.ceil(section.epochs * manifest["rows"] / section.global_batch)
    return min((n for n in (built, section.max_steps) if n is not None), default=None)


def _measured(run: Run, stage: str) -> float | None:
    """Tokens per second, the median of the stage's last steps on a GPU, where there are any (a cut line is none)."""
    path = run.stage(stage).metrics
    lines = path.read_bytes().splitlines(keepends=True)[-STEPS_MEASURED:] if path.is_file() else []
    rows = [json.loads(line) for line in lines if line.endswith(b"\n")]
    rates = [float(row["tokens_per_s"]) for row in rows if "gpu_mib" in row]
    return median(rates) if rates else None
