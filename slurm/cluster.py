"""A cluster file ``slurm/clusters/<name>.yaml`` -> what submitit is to ask for, stage by stage."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from octupus.config import BudgetSection, Recipe, Section
from octupus.errors import ConfigError, explain
from octupus.publish import read_json
from octupus.runs import Run
from slurm import chain

CLUSTERS = Path(__file__).resolve().parent / "clusters"
KEEPER = "keeper"
"""The name of the job that is no stage."""


class Resources(Section):
    """What a stage's job asks for; None leaves it to Slurm's own default."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time_min: int = Field(default=1440, gt=0)
    memory_gb: float | None = Field(default=None, gt=0)
    """Of a node."""
    cpus: int | None = Field(default=None, gt=0)
    """Of each process; a training stage has one process a GPU."""
    gpus: int | None = Field(default=None, ge=0)
    """GPUs a node; None asks for as many as the stage uses, 0 for none."""
    gpu_memory_gb: float | None = Field(default=None, gt=0)
    """Of one GPU: a training stage that cannot fit is refused before it is queued."""
    gres: str | None = Field(default=None, pattern=r"^\S+$")
    """Exact text, such as gpu:h100:8, in place of a count."""
    constraint: str | None = None
    exclude: str | None = None
    """Nodes that no job is to get, as Slurm writes them: node[3,7-9]."""
    signal_delay_s: int = Field(default=120, gt=0)
    """How long before the time limit a job is told to save and stop."""
    requeue: bool = True
    """Whether Slurm itself may start the job again after preemption or a node's failure."""
    array_parallel: int | None = Field(default=None, gt=0)
    """Tasks of an array (teacher, bfcl) that run at the same time; None: as many as Slurm starts."""


class Watching(Section):
    """How the keeper watches a chain."""

    every_s: float = Field(default=15, gt=0)
    """Between two looks at the queue."""
    stale_s: float = Field(default=180, gt=0)
    """A job without a sign of life for so long is dead, whatever Slurm says; shared folders may be a minute late."""
    start_s: float = Field(default=1800, gt=0)
    """How long a job may take from its start in Slurm to its first sign of life (loading modules, a container)."""
    retries: int = Field(default=3, ge=0)
    """How often in a row a stage is submitted again without having made progress."""


class Cluster(Section):
    """Where jobs run. ``local`` is this machine."""

    name: str
    executor: Literal["local", "slurm"] = "local"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    python: str | None = None
    """The interpreter of jobs, as a shell command; None: the one that submits."""
    env: dict[str, str] = Field(default_factory=dict)
    setup: tuple[str, ...] = ()
    """Shell lines before each job, such as module loads."""
    srun_args: tuple[str, ...] = ()
    scratch: str | None = Field(default=None, pattern=r"^[^\"`\\\n]+$")
    """A folder on each node's own disk, made by each job and used as TMPDIR; may name $USER and $SLURM_JOB_ID."""
    cache: str | None = Field(default=None, pattern=r"^/")
    """A shared folder for what jobs compile and for the hub's files, in place of those below the home folder."""
    keeper: dict[str, Any] | None = Field(default_factory=dict)
    """The small job that watches a chain and repairs it: the values of ``defaults`` that differ for it; null: none."""
    watch: Watching = Watching()
    budget: BudgetSection = BudgetSection()
    """What one run may cost here; the smaller of this and the recipe's own counts."""
    defaults: Resources = Resources()
    stages: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """By stage, the values of ``defaults`` that differ there."""

    def resources(self, stage: str) -> Resources:
        """What the job of a stage (or of ``keeper``) asks for."""
        own = self.stages.get(stage, {}) if stage != KEEPER else self.keeper or {}
        return Resources.model_validate({**self.defaults.model_dump(), **own})


def frozen_in(run: Run, name: str) -> Cluster:
    """A cluster file as it was when the run was last submitted there: edits, and files that are gone, change nothing.

    Raises:
        ConfigError: there is none in the run, nor among the cluster files.
    """
    raw = read_json(run.path / "clusters" / f"{name}.json")
    return load(name) if raw is None else Cluster.model_validate(raw)


def load(name: str, folder: Path = CLUSTERS) -> Cluster:
    """Read and check a cluster file.

    Raises:
        ConfigError: no such file, an unknown key (with the valid ones), a stage that does not exist.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise ConfigError(f"no cluster {name!r}: {path} does not exist; choose one of: {known}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds no keys with values, but {type(raw).__name__}: see slurm/clusters/local.yaml")
    try:
        cluster = Cluster.model_validate({**raw, "name": name})
    except ValidationError as error:
        raise ConfigError(explain(error, Cluster, f"cluster {name!r}")) from error
    stages = [step.name for step in chain.CHAIN]
    for stage in (*cluster.stages, KEEPER):
        if stage not in (*stages, KEEPER):
            raise ConfigError(f"cluster {name!r}: stages.{stage}: no such stage; there are: {', '.join(stages)}")
        try:
            cluster.resources(stage)
        except ValidationError as error:
            at = stage if stage == KEEPER else f"stages.{stage}"
            raise ConfigError(explain(error, Resources, f"cluster {name!r}: {at}")) from error
    return cluster


def gpus(cluster: Cluster, recipe: Recipe, stage: str) -> int:
    """GPUs a node that the job of a stage gets there; of a ``gres`` text, the number that it ends in."""
    wants = cluster.resources(stage)
    if wants.gres is not None:
        kinds = [one.split(":") for one in wants.gres.split(",") if one.split(":")[0] == "gpu"]
        return sum(int(kind[-1]) if kind[-1].isdigit() else 1 for kind in kinds)
    if wants.gpus is not None:
        return wants.gpus
    return 0 if cluster.device == "cpu" else chain.gpus_of(recipe, stage)


def python(cluster: Cluster) -> str:
    """The interpreter of jobs. ``-P``: modules come from the run's snapshot, never from the current folder."""
    return f"{cluster.python or shlex.quote(sys.executable)} -P"


def exports(cluster: Cluster, environment: Mapping[str, str]) -> list[str]:
    """Shell lines that give a job its variables and its folders; what ``env`` names outdoes what ``cache`` implies."""
    caches = {"XDG_CACHE_HOME": "", "HF_HOME": "/huggingface", "TRITON_CACHE_DIR": "/triton"}
    known = {} if cluster.cache is None else {key: cluster.cache + below for key, below in caches.items()}
    lines = [f"export {key}={shlex.quote(value)}" for key, value in {**known, **cluster.env, **environment}.items()]
    if cluster.scratch is not None:
        each_node = 'srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES"'
        lines += [f'export TMPDIR="{cluster.scratch}"', f'{each_node} mkdir -p "$TMPDIR"']
    return lines


def slurm_parameters(
    cluster: Cluster, recipe: Recipe, stage: str, environment: Mapping[str, str], dependency: str | None = None
) -> dict[str, Any]:
    """Parameters of submitit's SlurmExecutor for one stage.

    A dependency that can never be met cancels the job, and one rank that fails ends the others: asked for by every
    job itself, whatever the cluster's own settings are.
    """
    wants, (nodes, ranks) = cluster.resources(stage), chain.ranks_of(recipe, stage)
    tasks = chain.tasks_of(recipe, stage)
    count = gpus(cluster, recipe, stage)
    # From Slurm 22.05 on srun takes this from the job no longer, and binds each process to a single CPU.
    cpus = {} if wants.cpus is None else {"SRUN_CPUS_PER_TASK": str(wants.cpus)}
    asked = {
        "job_name": f"{recipe.name}-{stage}",
        "nodes": nodes,
        "ntasks_per_node": ranks,
        "time": wants.time_min,
        "mem": None if wants.memory_gb is None else f"{round(wants.memory_gb * 1024)}MB",
        "cpus_per_task": wants.cpus,
        "partition": wants.partition,
        "account": wants.account,
        "qos": wants.qos,
        "constraint": wants.constraint,
        "exclude": wants.exclude,
        "gres": wants.gres,
        "gpus_per_node": count if count and wants.gres is None else None,
        "dependency": dependency,
        "signal_delay_s": wants.signal_delay_s,
        "map_count": len(tasks) if len(tasks) > 1 else None,
        "array_parallelism": wants.array_parallel if len(tasks) > 1 else None,
        "stderr_to_stdout": True,
        "setup": [*cluster.setup, *exports(cluster, {**cpus, **environment})],
        "srun_args": ["--kill-on-bad-exit=1", *cluster.srun_args],
        "additional_parameters": {"kill-on-invalid-dep": "yes", "requeue" if wants.requeue else "no-requeue": True},
    }
    return {key: value for key, value in asked.items() if value is not None}


def sbatch_text(cluster: Cluster, parameters: dict[str, Any], folder: Path, command: str = "") -> str:
    """The text that sbatch would get, made without Slurm; ``command`` in place of submitit's own."""
    from submitit import SlurmExecutor

    class Text(SlurmExecutor):  # type: ignore[misc]
        @classmethod
        def affinity(cls) -> int:
            return 1

    executor = Text(folder, python=python(cluster))
    executor.update_parameters(**{key: value for key, value in parameters.items() if key != "map_count"})
    executor.parameters |= {key: value for key, value in parameters.items() if key == "map_count"}
    return str(executor._make_submission_file_text(command or executor._submitit_command_str, "u"))
