"""A chain of short stages on a real Slurm, hit by what happens to real ones, and what the keeper makes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from octupus.config import Recipe
from octupus.publish import publish_json
from octupus.runs import Run, StageState
from slurm import chain, cluster
from slurm.cluster import Cluster
from slurm.keeper import Keeper
from slurm.ledger import Ledger
from slurm.queue import Job, Queue
from slurm.remote import Remote
from slurm.stage import Frozen
from tests.cluster import stages

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).resolve().parents[2]


class Chain:
    """surgery -> data -> stage1 (two nodes) -> stage2, as real jobs, with the keeper in this process."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **behaviour: Any) -> None:
        self.run, self.queue = Run(folder / "a run 运行"), Queue()
        self.recipe = Recipe.model_validate(
            {
                "name": f"t{os.getpid()}",
                "model": {"scratch": {}},
                "stage1": {"nodes": 2, "ranks_per_node": 1, "global_batch": 2},
                "stage2": {"ranks_per_node": 1},
            }
        )
        base = cluster.load("devcluster")
        watch = base.watch.model_copy(update={"every_s": 0.5, "stale_s": 15.0})
        env = {**base.env, "PYTHONPATH": str(ROOT)}
        self.where: Cluster = base.model_copy(update={"env": env, "watch": watch})
        monkeypatch.setattr(cluster, "load", lambda name: self.where)
        publish_json(self.run.path / "recipe.json", Frozen(recipe=self.recipe, cluster="devcluster"))
        publish_json(self.run.path / "behaviour.json", behaviour)
        self.keeper = Keeper(self.run, self.queue, stages.STAGES)

    def submit(self, *goals: str, done: tuple[str, ...] = ("surgery", "data")) -> None:
        """Submit what the goals need; some of it has been done before."""
        hashes = chain.input_hashes(self.recipe, chain.chain_of(self.recipe))
        for name in done:
            self.run.stage(name).set_state(StageState(status="done", inputs=hashes[name]))
        planned = chain.plan(self.recipe, self.run, goals)
        Remote(self.recipe, self.where, Ledger(self.run), self.queue, stages.STAGES).submit(planned, "none", {})

    def job(self, stage: str) -> Job | None:
        job_id = Ledger(self.run).newest[stage].job_id
        return self.queue.jobs([job_id]).get(job_id)

    def state(self, stage: str) -> StageState:
        found = self.run.stage(stage).state()
        assert found is not None
        return found

    def events(self, **like: Any) -> list[dict[str, Any]]:
        path = self.run.path / "events.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [row for row in rows if all(row.get(key) == value for key, value in like.items())]

    def until(self, condition: Callable[[], bool], what: str, within_s: float = 300, keep: bool = False) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, f"{what}; {self.told()}"
            if keep:
                self.keeper.step()
            time.sleep(0.2)

    def keep(self, within_s: float = 300) -> None:
        """Until the chain is over."""
        self.until(lambda: not self.keeper.step(), "the chain never ended", within_s)

    def told(self) -> str:
        """For a test that fails: states and logs."""
        logs = [p.read_text(errors="replace")[-1500:] for p in sorted(self.run.path.glob("*/log/*/*.out"))]
        return f"{[self.job(s) for s in Ledger(self.run).newest]}\n" + "\n".join(logs)

    def holds(self, stage: str, step: int) -> None:
        self.until(lambda: bool(self.events(stage=stage, what="step", step=step)), f"{stage} never came to step {step}")

    def go(self) -> None:
        (self.run.path / "go").touch()

    def check_all_done(self) -> None:
        assert {name: self.state(name).status for name in ("surgery", "data", "stage1", "stage2")} == dict.fromkeys(
            ("surgery", "data", "stage1", "stage2"), "done"
        ), self.told()
        assert self.state("stage1").outputs == {"sum": 55}
        assert [row["step"] for row in self.events(stage="stage1", what="step")] == list(range(1, 11)), "nothing twice"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chain]:
    chain_of_jobs = Chain(tmp_path, monkeypatch, stage1={"steps": 10, "hold": 5})
    yield chain_of_jobs
    chain_of_jobs.queue.cancel({one.job_id for one in Ledger(chain_of_jobs.run).submissions})


def pids(run: Run, stage: str, rank: int | None = None, program: str = "submitit.core._submit") -> list[int]:
    """Of the processes of a stage's job that run ``program``, here, where all nodes share a process space."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            values = (entry / "environ").read_bytes().split(b"\0") if command else []
        except OSError:
            continue
        ours = any(program.encode() in word for word in command) and f"{run.path}/{stage}/".encode() in b"\0".join(
            command
        )
        srun = b"srun" in command[0] if command else False
        if ours and not srun and (rank is None or f"SLURM_PROCID={rank}".encode() in values):
            found.append(int(entry.name))
    return found


def test_a_chain_runs_through_and_is_not_run_again(made: Chain) -> None:
    made.go()
    made.submit("stage2", done=())
    assert Ledger(made.run).newest["stage2"].links.keys() == {"data", "stage1"}
    made.keep()
    made.check_all_done()
    assert {p.action for p in chain.plan(made.recipe, made.run, ["stage2"])} == {"reuse"}
    ranks = {row["rank"] for row in made.events(stage="stage1", what="start")}
    assert ranks == {"0", "1"}


def test_a_rank_that_is_killed_ends_the_others_and_the_stage_is_submitted_again(made: Chain) -> None:
    made.submit("stage2")
    made.holds("stage1", 5)
    first = made.job("stage1")
    assert first is not None
    os.kill(pids(made.run, "stage1", rank=1)[0], signal.SIGKILL)
    began = time.monotonic()
    made.until(lambda: (made.job("stage1") or first).over, "the other rank lives on")
    assert time.monotonic() - began < 30
    made.until(lambda: made.job("stage1") != first and not (made.job("stage1") or first).over, "not again", keep=True)
    made.go()
    made.keep()
    made.check_all_done()
    assert Ledger(made.run).newest["stage1"].retry == 1 and Ledger(made.run).newest["stage2"].attempt == 2


def test_an_administrator_requeues_and_what_waits_goes_on_waiting(made: Chain) -> None:
    made.submit("stage2")
    made.holds("stage1", 5)
    job = Ledger(made.run).newest["stage1"].job_id
    subprocess.run(["scontrol", "requeue", job], check=True)
    made.go()
    made.keep()
    made.check_all_done()
    assert made.state("stage1").restart == 1 and Ledger(made.run).newest["stage1"].job_id == job
    assert len(Ledger(made.run).submissions) == 2, "Slurm did it; the keeper had nothing to do"


def test_a_job_whose_slurmstepd_is_gone_is_found_by_its_silence(made: Chain) -> None:
    made.submit("stage2")
    made.holds("stage1", 5)
    job = made.job("stage1")
    assert job is not None
    daemons = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and f"slurmstepd: [{job.id}." in (entry / "cmdline").read_bytes().decode()
    ]
    assert daemons
    for pid in [*daemons, *pids(made.run, "stage1")]:
        os.kill(pid, signal.SIGKILL)
    made.until(lambda: Ledger(made.run).newest["stage1"].attempt == 2, "not again", keep=True)
    made.go()
    made.keep()
    made.check_all_done()


def test_a_mistake_ends_the_chain_with_its_reason_within_seconds(tmp_path: Path, monkeypatch: Any) -> None:
    made = Chain(tmp_path, monkeypatch, data={"mistake": True})
    made.submit("stage2", done=("surgery",))
    made.until(lambda: bool(made.events(stage="data", what="start")), "data never began")
    began = time.monotonic()
    made.keep()
    assert time.monotonic() - began < 30
    assert made.state("data").reason == "fake row 7: the row is bad"
    assert (made.state("stage1").status, made.state("stage2").status) == ("failed", "failed")
    assert "cancelled: it waited for" in made.state("stage1").reason
    assert len(Ledger(made.run).submissions) == 3


def test_what_a_person_cancels_takes_what_waits_for_it_with_it_and_stays_ended(made: Chain) -> None:
    made.submit("stage2")
    made.holds("stage1", 5)
    subprocess.run(["scancel", Ledger(made.run).newest["stage1"].job_id], check=True)
    made.keep()
    assert "was cancelled" in made.state("stage1").reason
    assert "waited for" in made.state("stage2").reason and len(Ledger(made.run).submissions) == 2
