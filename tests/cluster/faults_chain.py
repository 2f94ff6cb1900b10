"""Faults of the chain: what it waits for fails, its server dies, two want the same."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

from tests.cluster.registry import Scene, fault
from tests.cluster.slurm_view import dead, job_state, until


@fault("a dependency fails", short=True)
def dependency_fails(scene: Scene) -> str:
    chain = scene.chain()
    shards = chain.run.stage("data").path / "stage1"
    aside = shards.with_name("aside")
    shards.rename(aside)
    chain.submit("stage1", "stage2")
    (first,), (waiting,) = chain.jobs("stage1"), chain.jobs("stage2")
    until(lambda: job_state(first) == "FAILED", "stage 1 fails", 600)
    began = time.monotonic()
    until(lambda: job_state(waiting) == "CANCELLED", "what waits for it is cancelled", 60)
    until(lambda: _tells(chain.state("stage2")), "and the run folder tells why", 60)
    seconds = time.monotonic() - began
    assert seconds <= 10, f"cancelled and told after {seconds:.1f} s"
    scene.happened(f"job {first} FAILED, {waiting} cancelled and told {seconds:.1f} s later")
    assert "data" in chain.failed("stage1").reason
    chain.at_rest()
    assert chain.jobs("stage1") == [first] and chain.jobs("stage2") == [waiting], "a mistake is not tried again"
    aside.rename(shards)
    chain.submit("stage1", "stage2")
    chain.done("stage1", "stage2")
    chain.same_as(scene.prepared, "stage1", "stage2")
    return "nothing was tried again; with the cause mended the same command went on"


def _tells(state) -> bool:
    return state is not None and state.status == "failed" and "which failed" in state.reason


@fault("server killed while BFCL runs")
def server_killed(scene: Scene) -> str:
    chain = scene.chain(trained=True)
    chain.submit("bfcl")
    until(lambda: answered(chain) >= 5, "some entries are answered", 600, 0.02)
    (job_id,) = chain.jobs("serve")
    ranks = scene.here.ranks(job_id)
    os.kill(ranks[0], signal.SIGKILL)
    until(lambda: dead(ranks.values()), "the server is dead", 10)
    count = answered(chain)
    assert count < 60, "too late: all is answered"
    scene.happened(f"server of job {job_id} dead after {count} of 60 answers")
    chain.done("score")
    ids = [json.loads(line)["id"] for path in results(chain) for line in path.read_text().splitlines()]
    assert len(ids) == len(set(ids)) == 60
    outputs = chain.state("score").outputs
    assert outputs["errors"] == 0 and len(chain.jobs("serve")) == 2
    chain.at_rest()
    until(
        lambda: job_state(chain.jobs("serve")[-1]) not in ("RUNNING", "PENDING", "COMPLETING"), "the server ends", 120
    )
    return "server started again, each entry answered once, no errors"


def results(chain):
    return sorted((chain.run.path / "bfcl").rglob("*simple_python*result.json"))


def answered(chain) -> int:
    return sum(path.read_text().count("\n") for path in results(chain))


@fault("two runs at once, one of them asked for twice")
def two_at_once(scene: Scene) -> str:
    one, two = scene.chain(name="first"), scene.chain(name="second")
    with ThreadPoolExecutor(3) as pool:
        said = list(pool.map(lambda chain: chain.submit("stage1", "stage2"), (one, one, two)))
    assert all("stage1" in text for text in said)
    assert len(one.jobs("stage1")) == len(one.jobs("stage2")) == len(one.jobs("keeper")) == 1
    scene.happened("three commands at the same time")
    for chain in (one, two):
        chain.done("stage1", "stage2")
        chain.same_as(scene.prepared, "stage1", "stage2")
        assert len(chain.jobs("stage1")) == len(chain.jobs("stage2")) == 1
    return "one job a stage and run, both done"
