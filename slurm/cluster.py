"""A cluster file ``slurm/clusters/<name>.yaml`` -> what submitit is to ask for, stage by stage."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from octupus.config import Recipe, Section, explain
from octupus.errors import ConfigError
from slurm import chain

CLUSTERS = Path(__file__).resolve().parent / "clusters"


class Resources(Section):
    """What a stage's job asks for; None leaves it to Slurm's own default."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time_min: int = Field(default=1440, gt=0)
    memory_gb: float | None = None
    cpus: int | None = None
    gpus: int | None = None
    """GPUs a node; None asks for as many as the stage uses, 0 for none."""
    gpu_memory_gb: float | None = Field(default=None, gt=0)
    """Of one GPU: a training stage that cannot fit is refused before it is queued."""
    gres: str | None = None
    """Exact text, such as gpu:h100:8, in place of a count."""
    constraint: str | None = None
    exclude: str | None = None
    signal_delay_s: int = 120
    requeue: bool = True


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
    defaults: Resources = Resources()
    stages: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """By stage, the values of ``defaults`` that differ there."""

    def resources(self, stage: str) -> Resources:
        return Resources.model_validate({**self.defaults.model_dump(), **self.stages.get(stage, {})})


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
        cluster = Cluster.model_validate({**raw, "name": name})
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        raise ConfigError(explain(error, Cluster, f"cluster {name!r}")) from error
    stages = [step.name for step in chain.CHAIN]
    for stage in cluster.stages:
        if stage not in stages:
            raise ConfigError(f"cluster {name!r}: stages.{stage}: no such stage; there are: {', '.join(stages)}")
        try:
            cluster.resources(stage)
        except ValidationError as error:
            raise ConfigError(explain(error, Resources, f"cluster {name!r}: stages.{stage}")) from error
    return cluster


def python(cluster: Cluster) -> str:
    """The interpreter of jobs. ``-P``: modules come from the run's snapshot, never from the current folder."""
    return f"{cluster.python or shlex.quote(sys.executable)} -P"


def slurm_parameters(
    cluster: Cluster, recipe: Recipe, stage: str, environment: dict[str, str], dependency: str | None = None
) -> dict[str, Any]:
    """Parameters of submitit's SlurmExecutor for one stage.

    A dependency that can never be met cancels the job, and one rank that fails ends the others: asked for by every
    job itself, whatever the cluster's own settings are.
    """
    wants, (nodes, ranks) = cluster.resources(stage), chain.ranks_of(recipe, stage)
    array = next((step.array for step in chain.CHAIN if step.name == stage), None)
    gpus = 0 if cluster.device == "cpu" else wants.gpus if wants.gpus is not None else chain.gpus_of(recipe, stage)
    exports = [f"export {key}={shlex.quote(value)}" for key, value in {**environment, **cluster.env}.items()]
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
        "gpus_per_node": gpus if gpus and wants.gres is None else None,
        "dependency": dependency,
        "signal_delay_s": wants.signal_delay_s,
        "map_count": None if array is None else len(array(recipe)),
        "stderr_to_stdout": True,
        "setup": [*cluster.setup, *exports],
        "srun_args": ["--kill-on-bad-exit=1", *cluster.srun_args],
        "additional_parameters": {"kill-on-invalid-dep": "yes", "requeue" if wants.requeue else "no-requeue": True},
    }
    return {key: value for key, value in asked.items() if value is not None}


def sbatch_text(cluster: Cluster, parameters: dict[str, Any], folder: Path) -> str:
    """The text that sbatch would get, made without Slurm."""
    from submitit import SlurmExecutor

    class Text(SlurmExecutor):  # type: ignore[misc]
        @classmethod
        def affinity(cls) -> int:
            return 1

    executor = Text(folder, python=python(cluster))
    executor.update_parameters(**{key: value for key, value in parameters.items() if key != "map_count"})
    executor.parameters |= {key: value for key, value in parameters.items() if key == "map_count"}
    return str(executor._make_submission_file_text(executor._submitit_command_str, "u"))
