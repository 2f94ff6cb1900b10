"""What make status, logs and cancel make of a run on Slurm: its folder, its ledger and what Slurm says."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from signal import Signals
from typing import Any

import pytest
from rich.console import Console

from octupus.config import Recipe
from octupus.errors import ConfigError
from octupus.publish import publish_json
from octupus.runs import Heartbeat, Progress, Run, StageState
from slurm import cancel, status
from slurm.apart import WIND_DOWN
from slurm.ledger import Ledger, Submission
from slurm.look import Look
from slurm.queue import Job, Queue, Silent
from slurm.service import asked_to_end
from slurm.stage import Frozen
from slurm.view import Row

RECIPE = Recipe.model_validate(
    {
        "name": "small",
        "model": {"scratch": {}},
        "teacher": {"engine": "scripted", "shards": 3},
        "data": {"stage1": {"sources": [{"name": "teacher_answers"}]}},
        "stage1": {"nodes": 4, "ranks_per_node": 1, "global_batch": 8},
        "stage2": {"ranks_per_node": 1},
        "budget": {"gpu_hours": 500},
    }
)


class Fake(Queue):
    """Slurm as a list of jobs; what was cancelled is over at the next look, unless it drains."""

    def __init__(self, *jobs: Job) -> None:
        super().__init__()
        self.known = {job.id: job for job in jobs}
        self.asked = list[set[str]]()
        self.cancelled = list[tuple[str, Signals | None]]()

    def jobs(self, ids: Collection[str]) -> dict[str, Job]:
        self.asked.append({*ids})
        return {i: job for i, job in self.known.items() if i in ids or job.array in ids}

    def cancel(self, ids: Iterable[str], signal: Signals | None = None) -> None:
        for one in sorted(ids):
            self.cancelled.append((one, signal))
            for job in [j for j in self.known.values() if one in (j.id, j.array) and not j.over]:
                self.known[job.id] = replace(job, state="COMPLETED" if signal else "CANCELLED")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("OCTUPUS_RUNS", str(tmp_path / "runs"))
    made = Run(tmp_path / "runs" / "small")
    publish_json(made.path / "recipe.json", Frozen(recipe=RECIPE, code="abc", cluster="devcluster"))
    return made


def submitted(run: Run, stage: str, job_id: str, attempt: int = 1, **more: Any) -> Submission:
    """A line of jobs.jsonl, and the state that goes with it."""
    one = Submission(stage=stage, job_id=job_id, attempt=attempt, name=f"small-{stage}", at=time.time(), **more)
    Ledger(run).add(one)
    for place in (stage, *(f"{stage}/tasks/{task}" for task in one.tasks)):
        run.stage(place).set_state(StageState(status="submitted", attempt=attempt))
    return one


def says(run: Run, place: str, job: str, status: str = "running", attempt: int = 1, **more: Any) -> None:
    values = {"status": status, "attempt": attempt, "job": job, "started_at": time.time() - 60, **more}
    run.stage(place).set_state(StageState.model_validate(values))


def beats(run: Run, place: str, ago: float = 0.0, gpu_s: float = 0.0) -> None:
    path = run.stage(place).path / "heartbeat.json"
    publish_json(path, Heartbeat(host="node1", pid=1, at=time.time(), gpu_s=gpu_s))
    os.utime(path, (time.time() - ago,) * 2)


def job(job_id: str, stage: str, state: str = "RUNNING", reason: str = "", **more: Any) -> Job:
    return Job(id=job_id, name=f"small-{stage}", state=state, reason=reason, **more)


def looked(run: Run, queue: Queue) -> dict[str, Row]:
    (look,) = Look.at([run], queue)
    return {row.name: row for row in look.rows()}


def next_of(run: Run, queue: Queue) -> str:
    (look,) = Look.at([run], queue)
    return look.next(look.rows())


def test_a_running_job_shows_its_node_limit_progress_hours_and_last_sign(run: Run) -> None:
    submitted(run, "stage1", "7")
    says(run, "stage1", "7")
    beats(run, "stage1", ago=3, gpu_s=7200)
    progress = Progress(done=3, total=12, unit="steps", rate=0.5, note="loss 2.5", heartbeat_at=time.time())
    publish_json(run.stage("stage1").path / "progress.json", progress)
    queue = Fake(job("7", "stage1", nodes="node[1-4]", elapsed_s=121, limit_s=86400))
    row = looked(run, queue)["stage1"]
    assert (row.status, row.job, row.nodes, row.time) == ("running", "7", "node[1-4]", "2:01 / 24:00:00")
    assert row.figures == "3/12 steps, 0.5/s, 0:18 left, loss 2.5" and row.gpu_hours == 2
    assert row.silent_s is not None and row.silent_s < 4
    assert next_of(run, queue) == "make logs RUN=small STAGE=stage1"


@pytest.mark.parametrize(
    ("reason", "status", "words"),
    [
        ("Priority", "queued", "others are ahead"),
        ("Dependency", "queued", "for data (5)"),
        ("DependencyNeverSatisfied", "dead", "can never start"),
        ("QOSMaxGRESPerUser", "queued", "the QOS's limit of GPUs a user is reached (QOSMaxGRESPerUser)"),
        ("AssocGrpGRES", "queued", "the account's limit of GPUs is reached (AssocGrpGRES)"),
        ("AssocGrpCpuLimit", "queued", "the account's limit of CPUs is reached"),
        ("QOSMaxJobsPerUserLimit", "queued", "the QOS's limit of jobs a user is reached"),
        ("ReqNodeNotAvail, UnavailableNodes:node3", "queued", "is down, drained or reserved"),
        ("launch failed requeued held", "stuck", "could not be launched and is held"),
        ("JobHeldAdmin", "stuck", "held by an administrator"),
        ("SomethingNew", "queued", "SomethingNew"),
    ],
)
def test_why_a_job_waits_is_told_in_words(run: Run, reason: str, status: str, words: str) -> None:
    submitted(run, "stage1", "7", links={"data": "5"})
    row = looked(run, Fake(job("7", "stage1", "PENDING", reason)))["stage1"]
    assert row.status == status and words in row.reason and row.time == ""


def test_what_can_never_start_is_cancelled_first(run: Run) -> None:
    submitted(run, "stage1", "7")
    says(run, "stage1", "7", "failed", reason="no space left")
    submitted(run, "stage2", "8", links={"stage1": "7"})
    queue = Fake(job("7", "stage1", "FAILED"), job("8", "stage2", "PENDING", "DependencyNeverSatisfied"))
    told = next_of(run, queue)
    assert told.startswith("make cancel RUN=small, then ") or "mend the cause" in told
    assert told.endswith("make stage1 stage2 RUN=small CLUSTER=devcluster")


def test_a_job_that_started_and_says_nothing_yet_is_starting(run: Run) -> None:
    submitted(run, "stage1", "7")
    row = looked(run, Fake(job("7", "stage1", elapsed_s=30)))["stage1"]
    assert row.status == "starting" and "started 0:30 ago" in row.reason


def test_a_job_without_a_sign_of_life_is_stuck_and_the_keeper_is_named(run: Run) -> None:
    submitted(run, "stage1", "7")
    says(run, "stage1", "7")
    beats(run, "stage1", ago=200)
    running = job("7", "stage1", elapsed_s=300)
    row = looked(run, Fake(running))["stage1"]
    assert row.status == "stuck" and "no sign of life, though Slurm says RUNNING" in row.reason
    assert "make cancel RUN=small, then make stage1" in next_of(run, Fake(running))
    submitted(run, "keeper", "9")
    queue = Fake(running, job("9", "keeper"))
    assert looked(run, queue)["keeper"].status == "running"
    assert next_of(run, queue) == "nothing; the keeper (job 9) ends stage1 and starts it again"


def test_a_job_that_ended_without_a_word_says_how(run: Run) -> None:
    submitted(run, "stage1", "7")
    says(run, "stage1", "7")
    row = looked(run, Fake(job("7", "stage1", "OUT_OF_MEMORY")))["stage1"]
    assert row.status == "failed" and "took more memory than it asked for; raise memory_gb" in row.reason
    row = looked(run, Fake(job("7", "stage1", "FAILED", exit_code=3)))["stage1"]
    assert row.reason == "its job ended with code 3"


def test_a_job_that_slurm_has_forgotten_or_given_to_another_is_dead(run: Run) -> None:
    submitted(run, "stage1", "7")
    says(run, "stage1", "7")
    for queue in (Fake(), Fake(Job(id="7", name="somebody-else", state="RUNNING"))):
        row = looked(run, queue)["stage1"]
        assert row.status == "dead" and "Slurm has forgotten job 7" in row.reason


def test_an_array_is_one_row_that_counts_its_tasks(run: Run) -> None:
    one = submitted(run, "teacher", "7", tasks=("0", "1", "2"))
    for number, task in enumerate(one.tasks):
        beats(run, f"teacher/tasks/{task}", gpu_s=1800)
        assert number < 3
    says(run, "teacher/tasks/0", "7_0", "done")
    says(run, "teacher/tasks/1", "7_1")
    queue = Fake(
        job("7_1", "teacher", nodes="node2", elapsed_s=50, limit_s=3600),
        job("7_2", "teacher", "PENDING", "JobArrayTaskLimit"),
    )
    row = looked(run, queue)["teacher"]
    assert (row.status, row.nodes, row.gpu_hours, row.job) == ("running", "node2", 1.5, "7")
    assert row.reason == "1 running, 1 queued, 1 done"
    assert queue.asked == [{"7_1", "7_2"}], "what has ended is not asked for"


def test_the_tasks_of_a_running_array_have_rows_of_their_own(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted(run, "bfcl", "9", tasks=("live", "non_live", "heldout"))
    says(run, "bfcl", "9")
    for number, (task, note) in enumerate((("live", "7 errors"), ("non_live", ""), ("heldout", ""))):
        says(run, f"bfcl/tasks/{task}", f"9_{number}", status="done" if task == "heldout" else "running")
        beats(run, f"bfcl/tasks/{task}")
        made = Progress(done=10, total=40, unit="entries", rate=2, note=note, heartbeat_at=time.time())
        publish_json(run.stage(f"bfcl/tasks/{task}").path / "progress.json", made)
    page = told(run, 160, Fake(*(job(f"9_{number}", "bfcl") for number in range(3))), monkeypatch)
    rows = {line.split()[0]: line for line in page.splitlines() if "/40 entries" in line}
    assert "10/40 entries, 2/s, 0:15 left, 7 errors" in rows["live"] and set(rows) == {"live", "non_live"}


def test_all_runs_are_one_question_and_finished_ones_none(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    other = Run(run.path.with_name("other"))
    publish_json(other.path / "recipe.json", Frozen(recipe=RECIPE, code="abc", cluster="devcluster"))
    for each, number in ((run, "7"), (other, "8")):
        submitted(each, "stage1", number)
    queue = Fake(job("7", "stage1"), job("8", "stage1"))
    assert len(Look.at([run, other], queue)) == 2 and queue.asked == [{"7", "8"}]
    for each, number in ((run, "7"), (other, "8")):
        says(each, "stage1", number, "done")
    quiet = Fake()
    Look.at([run, other], quiet)
    assert quiet.asked == []


def told(run: Run, width: int, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("slurm.look.Queue", lambda: queue)
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    status.all_of([run], console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_page_is_whole_at_80_and_at_160_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted(run, "stage1", "7")
    says(run, "stage1", "7")
    beats(run, "stage1", ago=3, gpu_s=36000)
    (run.stage("stage1").log).mkdir()
    submitted(run, "stage2", "8", links={"stage1": "7"})
    queue = Fake(
        job("7", "stage1", nodes="node[1-4]", elapsed_s=121, limit_s=86400),
        job("8", "stage2", "PENDING", "Dependency"),
    )
    narrow, wide = (told(run, width, queue, monkeypatch) for width in (80, 160))
    for page in (narrow, wide):
        rows = {line.split()[0]: line for line in page.splitlines() if line.strip()}
        assert "running" in rows["stage1"] and "2:01 / 24:00:00" in rows["stage1"] and "queued" in rows["stage2"]
        assert "for stage1 (7)" in page and "next: make logs RUN=small STAGE=stage1" in page
        assert "10.0 GPU-hours so far of the 500 that it may take" in page and "cluster devcluster" in page
    assert not [line for line in narrow.splitlines()[1:] if len(line) > 80 and ":" not in line[:12]]
    assert "stage1: log: " in narrow.replace("  ", " ")
    header = next(line for line in wide.splitlines() if line.strip().startswith("stage"))
    assert header.split() == ["stage", "state", "job", "node", "progress", "time", "GPU-h", "seen"]


def test_a_slurm_that_does_not_answer_hides_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mute(Queue):
        def jobs(self, ids: Collection[str]) -> dict[str, Job]:
            raise Silent("squeue has not answered within 20 s; is slurmctld up?")

    submitted(run, "stage1", "7")
    page = told(run, 100, Mute(), monkeypatch)
    assert "what Slurm knows is missing here: squeue has not answered" in page and "stage1" in page
    assert "forgotten" not in page, "nothing is known, least of all that it is gone"


def test_watching_wants_a_terminal(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(["status"], {"WATCH": "1", "RUN": "small"}) == 2
    assert "WATCH=1 draws on a terminal" in capsys.readouterr().err


def test_the_log_of_a_job_that_waits_is_told_with_why(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted(run, "stage1", "7")
    monkeypatch.setattr("slurm.look.Queue", lambda: Fake(job("7", "stage1", "PENDING", "Resources")))
    with pytest.raises(ConfigError, match="stage1 has not started: the nodes that it asks for are busy; no log"):
        status.logs(run, "stage1", "")


# ---- cancel


def test_cancel_ends_the_keeper_first_clients_next_and_lets_the_server_drain(run: Run, capsys: Any) -> None:
    submitted(run, "stage2", "6")
    submitted(run, "serve", "7", links={"stage2": "6"})
    submitted(run, "bfcl", "8", tasks=("heldout", "live"), links={"serve": "7", "stage2": "6"})
    submitted(run, "keeper", "9")
    queue = Fake(
        job("7", "serve"),
        job("8_0", "bfcl"),
        job("8_1", "bfcl", "PENDING", "Dependency"),
        job("9", "keeper"),
        job("6", "stage2", "COMPLETED"),
    )
    cancel.cancel(run, "", queue)
    assert queue.cancelled == [("9", None), ("8", None), ("7", WIND_DOWN)]
    assert "bfcl (job 8)" in capsys.readouterr().out
    states = {name: run.stage(name).state() for name in ("serve", "bfcl", "bfcl/tasks/live")}
    assert all(s is not None and (s.status, s.reason) == ("failed", "cancelled") for s in states.values())


def test_cancel_of_a_stage_takes_what_waits_for_it_and_nothing_else(run: Run, capsys: Any) -> None:
    submitted(run, "data", "4")
    submitted(run, "stage1", "5", links={"data": "4"})
    submitted(run, "stage2", "6", links={"stage1": "5"})
    submitted(run, "keeper", "9")
    queue = Fake(job("4", "data"), job("5", "stage1"), job("6", "stage2", "PENDING"), job("9", "keeper"))
    cancel.cancel(run, "stage1", queue)
    assert queue.cancelled == [("6", None), ("5", None)]
    assert "stage1 (job 5)" in capsys.readouterr().out


def test_an_id_that_now_belongs_to_another_job_is_left_alone(run: Run, capsys: Any) -> None:
    submitted(run, "stage1", "5")
    queue = Fake(Job(id="5", name="somebody-else", state="RUNNING"))
    cancel.cancel(run, "", queue)
    assert queue.cancelled == [] and "nothing was running" in capsys.readouterr().out


def test_older_attempts_that_still_run_are_ended_too(run: Run) -> None:
    submitted(run, "stage1", "5")
    submitted(run, "stage1", "8", attempt=2)
    queue = Fake(job("5", "stage1"), job("8", "stage1", "PENDING"))
    cancel.cancel(run, "", queue)
    assert queue.cancelled == [("5", None), ("8", None)]


def test_an_array_whose_tasks_have_all_ended_is_not_at_work_any_more(run: Run) -> None:
    submitted(run, "serve", "7", tasks=("replica0", "replica1"))
    says(run, "serve", "7")
    for number in (0, 1):
        says(run, f"serve/tasks/replica{number}", f"7_{number}", "done", ended_at=time.time())
    row = looked(run, Fake())["serve"]
    assert (row.status, row.reason) == ("done", "2 done")


@pytest.mark.parametrize("text", ['{"a', "{}", "[]"])
def test_a_damaged_file_of_one_run_hides_no_other(run: Run, text: str) -> None:
    other = Run(run.path.parent / "other")
    publish_json(other.path / "recipe.json", Frozen(recipe=RECIPE, code="abc", cluster="devcluster"))
    for name in ("stage1/state.json", "jobs.jsonl"):
        path = run.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n")
        console = Console(file=io.StringIO(), width=200)
        status.all_of([run, other], console)
        told = console.file.getvalue()  # type: ignore[attr-defined]
        assert "other  recipe small" in told, told
        assert (text == "{}" and name == "jobs.jsonl") or (f"small: {path}" in told and "Traceback" not in told), told
        path.unlink()


def test_a_server_shows_the_requests_that_it_has_answered(run: Run) -> None:
    submitted(run, "serve", "7", tasks=("replica0", "replica1"))
    says(run, "serve", "7")
    for number in (0, 1):
        says(run, f"serve/tasks/replica{number}", f"7_{number}")
        run.stage(f"serve/tasks/replica{number}").set_progress(20 + number, "requests")
    queue = Fake(*(job(f"7_{number}", "serve", nodes="node1") for number in (0, 1)))
    assert looked(run, queue)["serve"].figures == "2 running; 41 requests"


def test_cancel_ends_at_once_what_waits_of_an_array_and_lets_the_rest_drain(run: Run) -> None:
    submitted(run, "serve", "7", tasks=("replica0", "replica1"))
    queue = Fake(job("7_0", "serve"), job("7_1", "serve", "PENDING", "Resources"))
    cancel.cancel(run, "serve", queue)
    assert queue.cancelled == [("7_0", WIND_DOWN), ("7_1", None)]
    assert asked_to_end(run, "7_0") and not asked_to_end(run, "7_1")
