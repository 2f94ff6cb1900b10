"""What a job learns from Slurm about itself: its id, its starts, its GPUs, and where its ranks meet."""

from __future__ import annotations

import os
import random

from slurm.queue import reachable


def join_ranks() -> None:
    """Give torch its variables, from submitit's view of the job; where they are set already, they stay."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return
    from submitit import JobEnvironment

    job = JobEnvironment()
    local = {"LOCAL_RANK": job.local_rank, "LOCAL_WORLD_SIZE": job.num_tasks // job.num_nodes}
    # Another port after a restart: ranks of a node that was given up for dead may still sit on the old one.
    port = random.Random(f"{job.job_id}.{restarts()}").randint(20000, 60000)
    meet = {"MASTER_ADDR": reachable(job.hostnames[0]), "MASTER_PORT": port}
    os.environ.update({k: str(v) for k, v in {"RANK": job.global_rank, "WORLD_SIZE": job.num_tasks, **local}.items()})
    for key, value in meet.items():
        os.environ.setdefault(key, str(value))


def restarts() -> int:
    """How often Slurm has started this job again."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def slurm_id() -> str:
    """This job's id, ``17`` or ``17_3``; empty where it is none of Slurm's."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def gpus_held() -> int:
    """GPUs that this job has on all its nodes, as Slurm says."""
    count, nodes = os.environ.get("SLURM_GPUS_ON_NODE", ""), os.environ.get("SLURM_JOB_NUM_NODES", "1")
    return int(count) * int(nodes) if count.isdigit() else 0
