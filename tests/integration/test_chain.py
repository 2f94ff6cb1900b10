"""The chain on this machine, with fake stages in real processes: order, failures, kills, Ctrl-C, going on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from octupus.publish import publish_json
from octupus.runs import Run
from slurm import reap

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def until(condition: Callable[[], Any], what: str, seconds: float = 40) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)
    return found


def events(run: Run) -> list[dict[str, Any]]:
    path = run.path / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def happened(run: Run) -> list[str]:
    return [f"{e['stage']} {e['what']}" for e in events(run) if e.get("rank", "0") == "0"]


def pid_of(run: Run, stage: str, rank: str = "0") -> int:
    started = [e for e in events(run) if e["stage"] == stage and e["what"] == "start" and e.get("rank", "0") == rank]
    return int(started[-1]["pid"]) if started else 0


def status(run: Run, stage: str) -> str:
    state = run.stage(stage).state()
    return "" if state is None else state.status


class Command:
    """A ``make`` of fakes, in a process of its own."""

    def __init__(self, run: Run, *arguments: str) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{HERE}"}
        command = [sys.executable, str(HERE / "chain_fakes.py"), str(run.path), *arguments]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@contextmanager
def command(run: Run, *arguments: str) -> Iterator[Command]:
    started = Command(run, *arguments)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.communicate()
        reap.kill(run.path)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "runs of möglichst odd names" / "fake")


def behave(run: Run, **stages: str) -> None:
    publish_json(run.path / "behaviour.json", stages)


def test_the_whole_chain_runs_in_order_and_a_second_time_runs_nothing(run: Run) -> None:
    with command(run, "all") as first:
        code, out, err = first.end()
    assert code == 0, err
    order = [line.split()[0] for line in happened(run) if line.endswith("start")]
    tasks = {f"bfcl/tasks/{name}" for name in ("heldout", "non_live", "live", "multi_turn")}
    assert {s for s in order if s.startswith("bfcl")} == tasks
    assert [s for s in order if s != "serve" and s not in tasks] == [
        *("surgery", "teacher/tasks/worker0", "merge", "data", "baseline", "stage1", "stage2"),
        *("score", "report"),
    ]
    assert "serve" in order and order.index("serve") > order.index("stage2")
    assert all(happened(run).index(f"{task} end") < happened(run).index("serve end") for task in tasks)
    assert sum(e["stage"] == "stage1" and e["what"] == "start" for e in events(run)) == 2, "two ranks"
    assert all(status(run, s) == "done" for s in (*order, "serve", "bfcl")), "the server lives as long as its clients"
    assert "stage1: done in 0:0" in out and "log: " in out
    assert not reap.marked(run.path) and run.endpoints() == {}

    count = len(events(run))
    with command(run, "all") as second:
        code, out, err = second.end()
    assert code == 0, err
    assert len(events(run)) == count, "nothing ran, the server included"
    assert "stage1: done before with the same inputs" in out


@pytest.mark.parametrize(
    ("how", "words"), [("fail", "fake row 7: the fake row is bad"), ("bug", "ValueError: a bug of the fake stage")]
)
def test_a_failure_names_stage_reason_log_and_what_to_run_next(run: Run, how: str, words: str) -> None:
    behave(run, data=how)
    with command(run) as started:
        code, _, err = started.end()
    assert code == 1
    assert "data failed after" in err and words in err and "`make fake` goes on from here" in err
    assert "the last lines of its log" in err and "not done: stage1, bfcl" in err
    log = Path(err.split("  log: ")[1].splitlines()[0])
    assert "a line of the log of data" in log.read_text()
    assert happened(run) == ["data start"], "nothing after it was started"
    state = run.stage("data").state()
    assert state is not None and state.status == "failed" and words in state.reason
    assert not reap.marked(run.path)

    if how == "fail":
        behave(run)
        with command(run) as again:
            code, _, err = again.end()
        assert code == 0, err
        state = run.stage("data").state()
        assert state is not None and (state.status, state.attempt) == ("done", 2)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_killed_rank_ends_the_others_at_once_and_is_named(run: Run, rank: str) -> None:
    behave(run, stage1="stubborn")
    with command(run) as started:
        pid = until(
            lambda: pid_of(run, "stage1", "0") and pid_of(run, "stage1", "1") and pid_of(run, "stage1", rank), "ranks"
        )
        os.kill(pid, signal.SIGKILL)
        code, _, err = started.end()
    assert code == 1
    assert "stage1 failed after" in err and f"rank {rank} was killed by SIGKILL" in err
    assert f"_{rank}_log.out" in err.split("  log: ")[1].splitlines()[0]
    assert not reap.marked(run.path), "the other rank and both children are gone"
    assert status(run, "stage1") == "failed" and status(run, "data") == "done"


def test_a_killed_server_ends_its_client_and_is_named(run: Run) -> None:
    behave(run, bfcl="hang")
    with command(run) as started:
        until(lambda: pid_of(run, "bfcl"), "the client")
        os.kill(pid_of(run, "serve"), signal.SIGKILL)
        code, _, err = started.end()
    assert code == 1
    assert "serve failed after" in err and "it was killed by SIGKILL" in err and "not done: bfcl" in err
    assert not reap.marked(run.path)
    assert status(run, "bfcl") == "failed" and status(run, "stage1") == "done"


def test_a_task_of_an_array_fails_alone_and_is_done_again(run: Run) -> None:
    behave(run, **{"bfcl/tasks/two": "fail"})
    with command(run, "array") as started:
        code, out, err = started.end()
    assert code == 1 and "bfcl two failed after" in out and "the fake row is bad" in out
    assert (
        "score failed after" in err
        and "not all was answered (two: fake row 7" in err
        and "not done: bfcl, report" in err
    )
    assert {f"bfcl/tasks/{name} start" for name in ("one", "two", "three")} <= {*happened(run)}, "the others went on"
    assert [status(run, s) for s in ("bfcl", "bfcl/tasks/one", "bfcl/tasks/two")] == ["failed", "done", "failed"]
    assert (run.stage("bfcl").log / "rank1.out").read_text().count("a line of the log of bfcl") == 1

    behave(run)
    with command(run, "array") as again:
        code, _, err = again.end()
    assert code == 0, err
    assert happened(run).count("data start") == 1 and happened(run).count("report end") == 1
    assert status(run, "bfcl") == status(run, "score") == "done" and not reap.marked(run.path)


def test_a_killed_task_is_named_and_a_killed_server_ends_all_tasks(run: Run) -> None:
    behave(run, **{"bfcl/tasks/one": "stubborn", "bfcl/tasks/two": "stubborn"})
    with command(run, "array") as started:
        until(lambda: pid_of(run, "bfcl/tasks/one") and pid_of(run, "bfcl/tasks/two"), "two tasks at once")
        assert not pid_of(run, "bfcl/tasks/three"), "no more than two"
        os.kill(pid_of(run, "bfcl/tasks/one"), signal.SIGKILL)
        until(lambda: pid_of(run, "bfcl/tasks/three"), "the third")
        state = run.stage("bfcl/tasks/one").state()
        assert state is not None and state.status == "failed" and "killed by SIGKILL" in state.reason
        assert len([p for p in reap.marked(run.path) if p.stage == "bfcl/two"]) >= 2, "the second one is left alone"
        os.kill(pid_of(run, "serve"), signal.SIGKILL)
        code, _, err = started.end()
    assert code == 1 and "serve failed after" in err and "not done: bfcl, score, report" in err
    assert not reap.marked(run.path)
    assert status(run, "bfcl") == status(run, "bfcl/tasks/two") == "failed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_everything_and_the_next_command_goes_on(run: Run, number: signal.Signals) -> None:
    behave(run, stage1="half")
    with command(run) as started:
        until(lambda: "stage1 step 3" in happened(run), "the third step")
        started.process.send_signal(number)
        code, _, err = started.end()
    assert code == 130
    assert number.name in err and "`make fake`" not in err and "make fake goes on from here" in err
    assert not reap.marked(run.path), "no orphan"
    assert status(run, "stage1") == "failed"

    with command(run) as again:
        code, _, err = again.end()
    assert code == 0, err
    assert happened(run).count("data start") == 1, "what was done is not done again"
    assert [e for e in happened(run) if e.startswith("stage1 step")] == [f"stage1 step {n}" for n in range(1, 6)]


def test_a_second_signal_does_not_wait(run: Run) -> None:
    behave(run, stage1="stubborn")
    with command(run) as started:
        until(lambda: pid_of(run, "stage1", "0") and pid_of(run, "stage1", "1"), "both ranks")
        began = time.monotonic()
        started.process.send_signal(signal.SIGINT)
        until(lambda: "ending what was started" in (started.process.stdout or sys.stdin).readline(), "the answer")
        started.process.send_signal(signal.SIGINT)
        code, _, _ = started.end()
    assert code == 130 and not reap.marked(run.path)
    assert time.monotonic() - began < 15, "the grace of 20 seconds was not used up"


def test_a_killed_launcher_leaves_nothing_behind(run: Run) -> None:
    behave(run, bfcl="hang")
    with command(run) as started:
        until(lambda: pid_of(run, "bfcl"), "the client")
        assert len(reap.marked(run.path)) >= 5
        started.process.kill()
        started.process.wait()
        until(lambda: not reap.marked(run.path), "everything to end", seconds=60)


def test_a_stage_is_worked_on_by_one_command_only(run: Run) -> None:
    behave(run, data="hang")
    with command(run) as first:
        until(lambda: pid_of(run, "data"), "the stage")
        code, _, err = Command(run).end()
        assert code == 2 and "stage data of run fake is being worked on by another command" in err
        assert first.process.poll() is None and status(run, "data") == "running", "the first one is left alone"
        assert reap.end(run.path, grace_s=5) > 0  # what make cancel does
        code, _, err = first.end()
    assert code == 1 and "it was stopped (SIGTERM; make cancel does that)" in err
