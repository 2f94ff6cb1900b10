"""Whether the training stages of a plan fit the GPUs that they are to get, and what they will cost."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from statistics import median

from octupus import estimate
from octupus.config import Recipe, TrainSection
from octupus.errors import ConfigError
from octupus.estimate import Hours, Shape
from octupus.runs import Run, read_json
from slurm.cluster import Cluster
from slurm.env.setup import has_gpu

STAGES = ("stage1", "stage2")
STEPS_MEASURED = 50
UNKNOWN = " a GPU, of how many is not known (gpu_memory_gb of the cluster file), so nothing is refused"


def check(recipe: Recipe, run: Run, where: Cluster, stages: Sequence[str]) -> Iterator[str]:
    """A line for each training stage among ``stages``: memory by part and GPU-hours, or that nothing can be said.

    Raises:
        ConfigError: a stage cannot fit its GPUs; says what it needs and with which values it would.
    """
    todo = [stage for stage in stages if stage in STAGES]
    if not todo or where.device == "cpu" or (where.executor == "local" and not has_gpu()):
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
    manifest = read_json(run.stage("data").path / stage / "manifest.json")
    built = None if manifest is None else math.ceil(section.epochs * manifest["rows"] / section.global_batch)
    known = [n for n in (built, section.max_steps) if n is not None]
    hours: Hours = estimate.gpu_hours(shape, section, context, min(known, default=1000), gpu, _measured(run, stage))
    every = f"{hours.steps:,} steps" if known else "every 1,000 steps (how many there are is known once data is built)"
    return f"about {hours.gpu_hours:,.1f} GPU-hours for {every} ({hours.source})"


def _measured(run: Run, stage: str) -> float | None:
    """Tokens per second, the median of the stage's last steps on a GPU, where there are any (a cut line is none)."""
    path = run.stage(stage).metrics
    lines = path.read_bytes().splitlines(keepends=True)[-STEPS_MEASURED:] if path.is_file() else []
    rows = [json.loads(line) for line in lines if line.endswith(b"\n")]
    rates = [float(row["tokens_per_s"]) for row in rows if "gpu_mib" in row]
    return median(rates) if rates else None
