"""The keeper's decisions, against a queue that is a dictionary: what is started again, what not, and what follows."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from signal import Signals
from typing import Any

import pytest

from octupus.config import Recipe
from octupus.errors import ConfigError, Lost
from octupus.publish import publish_json
from octupus.runs import Endpoint, Progress, Run, Signs, StageState
from slurm import cluster, remote, service
from slurm.keeper import Keeper
from slurm.ledger import Ledger, Submission
from slurm.queue import Job, Queue, Silent
from slurm.stage import TIME_IS_UP, Frozen, StageJob

RECIPE = Recipe.model_validate(
    {
        "name": "small",
        "model": {"scratch": {}},
        "stage1": {"nodes": 2, "ranks_per_node": 1, "global_batch": 2},
        "stage2": {"ranks_per_node": 1},
        "bfcl": {"categories": {"simple_python": 1, "multi_turn_base": 1}},
    }
)


class FakeQueue(Queue):
    """Jobs that are what the test says they are."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, Job] = {}
        self.cancelled: list[str] = []
        self.signalled: list[str] = []
        self.down = ""
        self.silent = False

    def jobs(self, ids: Collection[str]) -> dict[str, Job]:
        if self.silent:
            raise Silent("squeue has not answered")
        return {key: job for key, job in self.known.items() if key in ids or job.array in ids}

    def cancel(self, ids: Iterable[str], signal: Signals | None = None) -> None:
        for one in ids:
            (self.signalled if signal else self.cancelled).append(one)
            if not signal:
                self.known[one] = replace(self.known[one], state="CANCELLED")

    def unfit(self, nodes: str) -> str:
        return self.down if nodes else ""

    def become(self, job_id: str, state: str, **more: Any) -> None:
        self.known[job_id] = replace(self.known[job_id], state=state, **more)


class Chain:
    """A run with stages that were submitted, and the keeper that watches it; sbatch only hands out numbers."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe = RECIPE) -> None:
        self.run, self.queue, self.recipe = Run(folder / "small"), FakeQueue(), recipe
        publish_json(self.run.path / "recipe.json", Frozen(recipe=recipe, cluster="devcluster", code="abc"))
        self.keeper = Keeper(self.run, self.queue, signs=Signs(patient=True))
        self.refused = ""
        numbers = itertools.count(1)

        def sbatch(
            folder: Path, python: str, parameters: dict[str, Any], calls: list[StageJob]
        ) -> tuple[str, list[Path]]:
            if self.refused and self.refused in parameters.get("exclude", ""):
                raise ConfigError("Requested node configuration is not available")
            job_id = str(next(numbers))
            self.asked = parameters
            for task in range(len(calls)):
                one = f"{job_id}_{task}" if len(calls) > 1 else job_id
                self.queue.known[one] = Job(one, "PENDING", name=parameters["job_name"])
            return job_id, [folder / f"{job_id}_0_log.out"]

        monkeypatch.setattr(remote, "_sbatch", sbatch)

    def submit(self, *stages: str, links: bool = True) -> None:
        """Submit these, each linked to those before it that it waits for."""
        ledger = Ledger(self.run)
        for name in stages:
            step = next(s for s in remote.chain.CHAIN if s.name == name)
            before = [n for n in (*step.after, *step.beside) if n in ledger.newest]
            remote.Remote(self.recipe, cluster.load("devcluster"), ledger, self.queue, self.keeper.jobs).send(
                Submission(
                    stage=name,
                    job_id="",
                    attempt=0,
                    cluster="devcluster",
                    tasks=tuple(step.array(self.recipe)) if step.array else (),
                    links={n: ledger.newest[n].job_id for n in before},
                    until="score" if step.service else "",
                )
            )

    def id(self, stage: str) -> str:
        return Ledger(self.run).newest[stage].job_id

    def begin(self, stage: str, task: str = "", **more: Any) -> None:
        """Its job runs and says so."""
        one = Ledger(self.run).newest[stage]
        job_id = next(key for key, t in one.job_ids().items() if t == task)
        self.queue.become(job_id, "RUNNING", nodes="node1", **more)
        place = self.run.stage(f"{stage}/tasks/{task}" if task else stage)
        place.set_state(StageState(status="running", attempt=one.attempt, job=job_id, started_at=time.time()))
        publish_json(place.path / "heartbeat.json", {"host": "node1", "pid": 1, "at": 0.0})

    def end(self, stage: str, status: str, slurm: str, task: str = "", **more: Any) -> None:
        """Its job has ended: by its own word, and by Slurm's."""
        one = Ledger(self.run).newest[stage]
        job_id = next(key for key, t in one.job_ids().items() if t == task)
        place = self.run.stage(f"{stage}/tasks/{task}" if task else stage)
        said = {key: more.pop(key) for key in ("reason", "lost") if key in more}
        state = StageState(status=status, attempt=one.attempt, job=job_id, **said)  # type: ignore[arg-type]
        place.set_state(state)
        self.queue.become(job_id, slurm, **more)

    def state(self, stage: str) -> StageState:
        found = self.run.stage(stage).state()
        assert found is not None
        return found


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    return Chain(tmp_path, monkeypatch)


def test_a_chain_that_goes_well_is_left_alone_and_ends(made: Chain) -> None:
    made.submit("stage1", "stage2")
    assert made.keeper.step()
    made.begin("stage1")
    assert made.keeper.step()
    made.end("stage1", "done", "COMPLETED")
    made.end("stage2", "done", "COMPLETED")
    assert not made.keeper.step()
    assert [one.job_id for one in Ledger(made.run).submissions] == ["1", "2"] and not made.queue.cancelled


@pytest.mark.parametrize(
    ("state", "more"),
    [
        ("NODE_FAIL", {}),
        ("PREEMPTED", {}),
        ("TIMEOUT", {}),
        ("FAILED", {"signal": 9}),
        ("FAILED", {"exit_code": 75, "lost": True, "reason": "rank 0 of 2 lost another rank"}),
        ("COMPLETED", {}),
    ],
)
def test_what_ended_by_nobodys_doing_is_submitted_again_with_all_that_waited_for_it(
    made: Chain, state: str, more: dict[str, Any]
) -> None:
    made.submit("stage1", "stage2", "report")
    made.begin("stage1")
    status = "failed" if "reason" in more else "running"  # not "done": nothing proves that it was
    made.end("stage1", status, state, **more)
    made.queue.become(made.id("stage2"), "CANCELLED", reason="DependencyNeverSatisfied")
    assert made.keeper.step()
    again = Ledger(made.run).newest
    assert (again["stage1"].job_id, again["stage1"].attempt, again["stage1"].retry) == ("4", 2, 1)
    assert again["stage2"].links == {"stage1": "4"} and again["stage2"].attempt == 2
    assert made.state("stage1").status == "submitted" and made.state("stage2").status == "submitted"
    assert again["report"].job_id == "3", "it waited for none of them"


def test_a_mistake_of_the_user_is_not_tried_again(made: Chain) -> None:
    made.submit("stage1", "stage2")
    made.end("stage1", "failed", "FAILED", exit_code=1, reason="row 7 is bad")
    made.queue.become(made.id("stage2"), "CANCELLED", reason="DependencyNeverSatisfied")
    assert not made.keeper.step()
    assert made.state("stage1").reason == "row 7 is bad"
    assert made.state("stage2").reason == "cancelled: it waited for stage1, which failed"
    assert len(Ledger(made.run).submissions) == 2


def test_what_a_person_cancels_stays_cancelled_and_so_does_what_waited_for_it(made: Chain) -> None:
    made.submit("stage1", "stage2")
    made.begin("stage1")
    made.queue.become("1", "CANCELLED", signal=15)
    made.queue.become("2", "PENDING", reason="DependencyNeverSatisfied")  # a cluster without kill_invalid_depend
    assert not made.keeper.step()
    assert "job 1 was cancelled" in made.state("stage1").reason and made.queue.cancelled == ["2"]
    assert not made.keeper.step() and len(Ledger(made.run).submissions) == 2


def test_a_job_that_slurm_calls_running_without_a_sign_of_life_is_ended_and_submitted_again(made: Chain) -> None:
    made.submit("stage1")
    made.begin("stage1")
    assert made.keeper.step()
    beat = made.run.stage("stage1").path / "heartbeat.json"
    # The writer's clock, and the file's date, are ten minutes behind: it lives for all that, for its file is replaced.
    publish_json(beat, {"host": "node1", "pid": 1, "at": 1.0})
    os.utime(beat, (time.time() - 600,) * 2)
    assert made.keeper.step() and not made.queue.cancelled
    limit = cluster.load("devcluster").watch.stale_s
    made.keeper.signs._seen = {path: (what, at - limit - 1) for path, (what, at) in made.keeper.signs._seen.items()}
    assert made.keeper.step()
    assert made.queue.cancelled == ["1"] and Ledger(made.run).newest["stage1"].exclude == "node1"
    assert "no sign of life" in Ledger(made.run).ended["1"]
    assert made.id("stage1") == "2" and made.keeper.step()


def test_a_keeper_that_died_between_ending_a_job_and_submitting_it_again_goes_on(made: Chain) -> None:
    made.submit("stage1")
    made.begin("stage1")
    Ledger(made.run).end("1", "it gave no sign of life")
    made.queue.become("1", "CANCELLED")
    assert made.keeper.step() and made.id("stage1") == "2"


def test_retries_are_bounded_unless_there_is_progress(made: Chain) -> None:
    made.submit("stage1")
    retries = cluster.load("devcluster").watch.retries
    for number in range(retries):
        made.end("stage1", "running", "FAILED", signal=9)
        assert made.keeper.step()
        assert Ledger(made.run).newest["stage1"].retry == number + 1
    progress = Progress(done=5, total=10, unit="steps", heartbeat_at=0.0)
    publish_json(made.run.stage("stage1").path / "progress.json", progress)
    made.end("stage1", "running", "FAILED", signal=9)
    assert made.keeper.step() and Ledger(made.run).newest["stage1"].retry == 1, "it came further: from the start"
    for _ in range(retries - 1):
        made.end("stage1", "running", "FAILED", signal=9)
        assert made.keeper.step()
    made.end("stage1", "running", "FAILED", signal=9)
    assert not made.keeper.step()
    state = made.state("stage1")
    assert (
        state.status == "failed" and f"given up after {retries} retries" in state.reason and "signal 9" in state.reason
    )


def test_a_job_that_slurm_starts_again_and_again_without_progress_is_given_up(made: Chain) -> None:
    made.submit("stage1")
    retries = cluster.load("devcluster").watch.retries
    made.begin("stage1", restarts=retries)
    assert made.keeper.step() and not made.queue.cancelled
    made.begin("stage1", restarts=retries + 1)
    assert made.keeper.step() and made.queue.cancelled == ["1"] and made.id("stage1") == "2"
    progress = Progress(done=5, total=10, unit="steps", heartbeat_at=0.0)
    publish_json(made.run.stage("stage1").path / "progress.json", progress)
    made.begin("stage1", restarts=50)
    assert made.keeper.step() and made.queue.cancelled == ["1"], "it comes further each time: a short time limit"


def test_the_budget_stops_what_would_be_started_again(made: Chain) -> None:
    budget = RECIPE.model_copy(update={"budget": RECIPE.budget.model_copy(update={"gpu_hours": 1.0})})
    publish_json(made.run.path / "recipe.json", Frozen(recipe=budget, cluster="devcluster", code="abc"))
    made.submit("stage1")
    made.begin("stage1")
    publish_json(made.run.stage("stage1").path / "heartbeat.json", {"host": "h", "pid": 1, "at": 0, "gpu_s": 3601})
    made.end("stage1", "running", "NODE_FAIL")
    assert not made.keeper.step()
    assert "not started again" in made.state("stage1").reason and "budget.gpu_hours" in made.state("stage1").reason


def test_a_node_that_failed_is_excluded_unless_there_is_none_to_spare(made: Chain) -> None:
    made.submit("stage1", "stage2")
    made.queue.down = "node2"
    made.end("stage1", "running", "NODE_FAIL", nodes="node[1-2]")
    assert made.keeper.step() and Ledger(made.run).newest["stage1"].exclude == "node2"
    assert "exclude" not in made.asked, "what waited for it may run there"
    made.refused = "node3"
    made.end("stage1", "running", "NODE_FAIL", nodes="node3")
    assert made.keeper.step() and Ledger(made.run).newest["stage1"].exclude == ""


def test_of_an_array_only_the_lost_tasks_run_again_when_all_have_ended_and_the_scores_wait_for_them(
    made: Chain,
) -> None:
    made.submit("serve", "bfcl", "score", "report")
    tasks = Ledger(made.run).newest["bfcl"].tasks
    made.begin("serve")
    made.end("bfcl", "done", "COMPLETED", task=tasks[0])
    made.begin("bfcl", tasks[1])
    assert made.keeper.step() and made.id("bfcl") == "2"
    made.end("bfcl", "failed", "FAILED", task=tasks[1], lost=True, reason="the server died")
    made.end("score", "failed", "FAILED", reason="1 entry has no answer yet")  # afterany: it has run already
    made.queue.become(made.id("report"), "CANCELLED", reason="DependencyNeverSatisfied")
    assert made.keeper.step()
    again = Ledger(made.run).newest
    assert again["bfcl"].tasks == (tasks[1],) and again["bfcl"].links == {"serve": "1"}
    assert again["score"].links == {"bfcl": again["bfcl"].job_id}
    assert again["report"].links == {"score": again["score"].job_id}
    assert made.state(f"bfcl/tasks/{tasks[0]}").status == "done"


def test_a_server_comes_back_while_somebody_needs_it_and_is_ended_afterwards(made: Chain) -> None:
    made.submit("serve", "bfcl", "score")
    first, last = Ledger(made.run).newest["bfcl"].tasks
    made.begin("bfcl", first)
    made.end("serve", "running", "FAILED", signal=9)
    assert made.keeper.step() and made.id("serve") == "4"
    made.begin("serve")
    for task in (first, last):
        made.end("bfcl", "done", "COMPLETED", task=task)
    made.end("score", "failed", "FAILED", reason="an answer cannot be judged")
    assert made.keeper.step()
    assert made.queue.signalled == ["4"], "gently: it drains and says that it is gone"
    made.queue.become("4", "COMPLETED")
    assert not made.keeper.step()


def test_replicas_are_awaited_one_outlives_the_other_and_all_are_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = RECIPE.model_copy(update={"serve": RECIPE.serve.model_copy(update={"replicas": 2})})
    made = Chain(tmp_path, monkeypatch, two)
    made.submit("serve", "bfcl", "score")
    assert Ledger(made.run).newest["serve"].tasks == ("replica0", "replica1")
    made.begin("serve", "replica0")
    made.begin("serve", "replica1")
    looks = []

    def looked(ids: Collection[str]) -> dict[str, Job]:
        looks.append(len(made.run.endpoints()))
        if len(looks) == 2:
            made.run.publish_endpoint(
                "0", Endpoint(url="http://x:1", model="m", instance="a", heartbeat_at=time.time())
            )
        if len(looks) == 4:
            made.queue.become("1_1", "FAILED", reason="NonZeroExitCode")
        return FakeQueue.jobs(made.queue, ids)

    monkeypatch.setattr(made.queue, "jobs", looked)
    service.await_endpoint(made.run, made.queue, poll_s=0)
    assert looks == [0, 0, 1, 1], "until the other one has ended: one that runs will answer, and is waited for"
    assert made.keeper.step() and made.id("serve") == "1", "nothing is started again while one of them answers"
    made.queue.become("1_1", "PENDING", reason="Resources")
    assert service.release(made.run, "score", made.queue) == "1"
    assert made.queue.signalled == ["1_0"] and made.queue.cancelled == ["1_1"] and "1_1" in Ledger(made.run).ended
    made.queue.become("1_0", "COMPLETED")
    made.run.withdraw_endpoint("0")
    with pytest.raises(Lost, match=r"server's job 1 ended: .*CANCELLED.*no endpoint is up"):
        service.await_endpoint(made.run, made.queue, poll_s=0)


def test_a_server_that_nobody_asked_for_an_hour_comes_back_for_those_who_still_wait(made: Chain) -> None:
    made.submit("serve", "bfcl", "score")
    made.begin("serve")
    made.queue.become("1", "COMPLETED")
    assert made.keeper.step() and made.id("serve") == "4"
    for task in Ledger(made.run).newest["bfcl"].tasks:
        made.end("bfcl", "done", "COMPLETED", task=task)
    made.begin("score")
    made.queue.become("4", "COMPLETED")  # score has released it, and is about to end
    assert made.keeper.step() and made.id("serve") == "4"


def test_slurm_that_does_not_answer_says_nothing_about_any_job(made: Chain) -> None:
    made.submit("stage1")
    made.queue.silent = True
    assert made.keeper.step() and made.state("stage1").status == "submitted"


def test_a_job_that_slurm_has_forgotten_counts_by_its_last_word(made: Chain) -> None:
    made.submit("stage1", "stage2")
    made.end("stage1", "done", "COMPLETED")
    made.begin("stage2")
    made.queue.known.clear()
    assert not made.keeper.step()
    assert made.state("stage1").status == "done" and "Slurm has forgotten job 2" in made.state("stage2").reason


def test_another_job_that_got_the_same_number_is_not_taken_for_ours(made: Chain) -> None:
    made.submit("stage1")
    made.queue.known["1"] = Job("1", "RUNNING", name="somebody-elses")
    assert not made.keeper.step()
    assert "forgotten" in made.state("stage1").reason and not made.queue.cancelled


def test_a_queue_command_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "squeue"
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(Silent, match=r"squeue has not answered within 0\.2 s"):
        Queue(timeout_s=0.2).jobs(["1"])


# ---- servers


def test_a_server_that_never_answers_anything_is_given_up(made: Chain) -> None:
    made.submit("serve", "bfcl", "score")
    retries = cluster.load("devcluster").watch.retries
    for attempt in range(retries):
        before = made.id("serve")
        made.end("serve", "failed", "FAILED", reason="CUDA out of memory", lost=True)
        assert made.keeper.step() and made.id("serve") != before, f"retry {attempt + 1}"
    last = made.id("serve")
    made.end("serve", "failed", "FAILED", reason="CUDA out of memory", lost=True)
    made.keeper.step()
    assert made.id("serve") == last and f"given up after {retries} retries" in made.state("serve").reason


def test_a_server_that_has_answered_starts_counting_anew(made: Chain) -> None:
    made.submit("serve", "bfcl", "score")
    for answered in range(6):
        made.run.stage("serve").set_progress(answered + 1, "requests")
        made.end("serve", "running", "FAILED", signal=9)
        assert made.keeper.step()
        assert Ledger(made.run).newest["serve"].retry == 1


def test_a_servers_time_limits_are_no_reason_to_end_it(made: Chain) -> None:
    made.submit("serve", links=False)
    job_id = made.id("serve")
    made.queue.become(job_id, "RUNNING", nodes="node1", restarts=9, elapsed_s=1.0)
    one = Ledger(made.run).newest["serve"]
    stage = made.run.stage("serve")
    stage.set_state(StageState(status="running", attempt=one.attempt, job=job_id, restart=9, started_at=time.time()))
    publish_json(stage.path / "heartbeat.json", {"host": "node1", "pid": 1, "at": 0.0})
    assert made.keeper.step() and made.id("serve") == job_id and not made.queue.cancelled


def test_what_slurm_refuses_ends_one_stage_and_not_the_keeper(made: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    made.submit("stage1", "stage2")
    made.end("stage1", "failed", "FAILED", reason="rank 1 was killed", lost=True)

    def refuse(*_: Any) -> tuple[str, list[Path]]:
        raise ConfigError("Slurm refuses small-stage1: invalid account")

    monkeypatch.setattr(remote, "_sbatch", refuse)
    made.keeper.step()
    assert "rank 1 was killed; not started again: Slurm refuses" in made.state("stage1").reason
    assert not made.state("stage1").lost


def test_a_time_limit_that_may_not_requeue_puts_no_node_under_suspicion(made: Chain) -> None:
    made.submit("stage2", links=False)
    made.begin("stage2")
    made.end("stage2", "failed", "FAILED", reason=f"{TIME_IS_UP}, and ...", lost=True, nodes="node1")
    assert made.keeper.step() and Ledger(made.run).newest["stage2"].exclude == ""


def test_the_keeper_goes_by_the_cluster_file_of_the_submission(made: Chain) -> None:
    made.submit("stage2", links=False)
    fewer = cluster.load("devcluster").model_copy(update={"name": "gone", "watch": cluster.Watching(retries=0)})
    publish_json(made.run.path / "clusters" / "gone.json", fewer)
    one = Ledger(made.run).newest["stage2"]
    Ledger(made.run).add(one.model_copy(update={"cluster": "gone"}))
    made.begin("stage2")
    made.end("stage2", "running", "FAILED", signal=9)
    assert not made.keeper.step() and "given up after 0 retries" in made.state("stage2").reason
