"""Faults of jobs: a rank, its slurmstepd, a requeue, the time limit, scancel, a full disk, a wrong clock."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from tests.cluster.chained import OTHERS
from tests.cluster.registry import Scene, fault
from tests.cluster.slurm_view import dead, environment, job, job_state, signal_all, slurm, until


@fault("kill -9 of a rank")
def rank_killed(scene: Scene) -> str:
    chain = scene.chain(nodes=2)
    chain.submit("stage1", "stage2")
    _, ranks = chain.hold("stage1", 8)
    assert sorted(ranks) == [0, 1]
    os.kill(ranks[1], signal.SIGKILL)
    until(lambda: dead([ranks[1]]), "rank 1 is dead", 10)
    signal_all([ranks[0]], signal.SIGCONT)
    began = time.monotonic()
    until(lambda: dead(ranks.values()), "the other rank ends too", 60)
    seconds = time.monotonic() - began
    scene.happened(f"rank 1 dead, rank 0 ended {seconds:.0f} s later")
    chain.done("stage1", "stage2")
    chain.same_as(scene.pair, "stage1", "stage2")
    assert len(chain.jobs("stage1")) == 2 and len(chain.jobs("stage2")) <= 2
    return "stage 1 submitted again, went on from step 8; stage 2 done"


@fault("kill -9 of slurmstepd")
def stepd_killed(scene: Scene) -> str:
    chain = scene.chain()
    chain.submit("stage1")
    job_id, ranks = chain.hold("stage1", 8)
    (stepd,) = scene.here.stepd(job_id)
    os.kill(stepd, signal.SIGKILL)
    until(lambda: dead([stepd]), "slurmstepd is dead", 10)
    signal_all(ranks.values(), signal.SIGKILL)
    until(lambda: dead(ranks.values()), "what it had started is dead", 10)
    assert job_state(job_id) == "RUNNING"
    scene.happened(f"slurmstepd of job {job_id} dead, Slurm called it RUNNING")
    until(lambda: job_state(job_id) == "CANCELLED", "the job that only looks alive is ended", 300)
    chain.done("stage1")
    chain.same_as(scene.prepared, "stage1")
    assert len(chain.jobs("stage1")) == 2
    return "found silent, cancelled, submitted again, done"


@fault("requeued by an administrator", short=True)
def requeued(scene: Scene) -> str:
    chain = scene.chain()
    chain.submit("stage1", "stage2")
    job_id, ranks = chain.hold("stage1", 8)
    slurm("scontrol", "requeue", job_id)
    until(lambda: job(job_id).get("Restarts") == "1" and dead(ranks.values()), "it is requeued", 60)
    scene.happened(f"job {job_id}: Restarts=1")
    chain.done("stage1", "stage2")
    chain.same_as(scene.prepared, "stage1", "stage2")
    assert chain.jobs("stage1") == [job_id] and len(chain.jobs("stage2")) == 1
    return "the same job went on from its checkpoint; stage 2 done"


@fault("time limit reached three times", short=True)
def time_limit(scene: Scene) -> str:
    """Slurm wakes a stopped rank for its warning: each is heeded, and the job asks to be requeued."""
    minutes = scene.prepared.minutes("stage1") + 1  # the warning comes up to half a minute early: leave time to start
    # Ranks are held until the limit, and give no sign of life meanwhile: nobody is to take them for hung.
    limits = {"time_min": minutes, "signal_delay_s": 1, "stale_s": 60 * minutes + 300}
    chain = scene.chain(cluster=scene.checkout.cluster("limited", exclude=OTHERS, **limits))
    chain.submit("stage1", "stage2")
    for number in range(1, scene.limits + 1):
        job_id, _ = chain.hold("stage1", 5 * number)
        what = f"limit {number} of {minutes} min is reached and job {job_id} requeued"
        until(lambda n=number, j=job_id: job(j).get("Restarts") == str(n), what, 60 * minutes + 60)
    scene.happened(f"its limit of {minutes} min reached {scene.limits} times, Restarts={scene.limits}")
    chain.done("stage1", "stage2")
    chain.same_as(scene.prepared, "stage1", "stage2")
    assert chain.jobs("stage1") == [job_id] and len(chain.jobs("stage2")) == 1
    log = (chain.run.stage("stage1").log / "rank0.out").read_text()
    resumed = [int(step) for step in re.findall(r"from step (\d+) of", log)]
    assert log.count("Caught signal SIGUSR2") >= scene.limits == len(resumed) and resumed == sorted(resumed), log
    return "requeued by itself each time, on from where it was; stage 2 done"


@fault("scancel of a middle stage")
def cancelled(scene: Scene) -> str:
    chain = scene.chain()
    chain.submit("stage1", "stage2")
    job_id, ranks = chain.hold("stage1", 8)
    (waiting,) = chain.jobs("stage2")
    slurm("scancel", job_id)
    until(lambda: job_state(job_id) == "CANCELLED" and dead(ranks.values()), "stage 1 is cancelled", 60)
    until(lambda: job_state(waiting) == "CANCELLED", "what waited for it is cancelled", 60)
    scene.happened(f"job {job_id} CANCELLED, and {waiting} that waited")
    assert "cancelled" in chain.failed("stage1").reason
    assert "stage1, which failed" in chain.failed("stage2").reason
    chain.at_rest()
    assert chain.jobs("stage1") == [job_id] and chain.jobs("stage2") == [waiting], "nobody starts it again unasked"
    chain.submit("stage1", "stage2")
    chain.done("stage1", "stage2")
    chain.same_as(scene.prepared, "stage1", "stage2")
    return "stays cancelled with its reason; the same command went on from step 8"


@fault("run folder full")
def disk_full(scene: Scene) -> str:
    chain = scene.chain()
    folder = chain.run.stage("stage1").path
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        chain.submit("stage1", "stage2")
        until(lambda: shutil.disk_usage(folder).free < 64 << 10, "the disk is full", 600)
        until(lambda: job_state(chain.jobs("stage1")[0]) == "FAILED", "stage 1 fails", 300)
        scene.happened(f"{shutil.disk_usage(folder).free >> 10} KiB free, job FAILED")
        subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
        chain.at_rest()
        chain.submit("stage1", "stage2")
        chain.done("stage1", "stage2")
        chain.same_as(scene.prepared, "stage1", "stage2")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)
    return "ended; with space again the chain went on"


@fault("one job's clock off by 10 minutes")
def clock_off(scene: Scene) -> str:
    chain = scene.chain(cluster=scene.checkout.skewed())
    chain.submit("stage1", "stage2")
    job_id, ranks = chain.hold("stage1", 8)
    assert environment(ranks[0]).get("FAKETIME") == "+10m"
    ahead = json.loads((chain.run.stage("stage1").path / "heartbeat.json").read_text())["at"] - time.time()
    assert 500 < ahead < 700
    scene.happened(f"its heartbeat is dated {ahead:.0f} s ahead")
    signal_all(ranks.values(), signal.SIGCONT)
    chain.done("stage1", "stage2")
    chain.same_as(scene.prepared, "stage1", "stage2")
    assert chain.jobs("stage1") == [job_id] and len(chain.jobs("stage2")) == 1
    return "nobody took it for dead; done at the first attempt"
