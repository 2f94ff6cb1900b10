"""What is submitted to Slurm and what is not: links, done-markers that are believed or not, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from octupus.config import Recipe
from octupus.errors import ConfigError, JobError
from octupus.runs import Run, StageState
from slurm import chain, cluster, remote, submit
from slurm.chain import Planned
from slurm.jobs import JOBS
from slurm.ledger import Ledger, Submission
from slurm.queue import Job, Queue, seconds

RECIPE = Recipe.model_validate({"name": "small", "model": {"scratch": {}}})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "small")


def submitted(run: Run, stage: str, job_id: str, status: str = "running", **more: Any) -> None:
    """A stage that was submitted before, with what its state says."""
    inputs = chain.input_hashes(RECIPE, chain.chain_of(RECIPE))[stage]
    Ledger(run).add(Submission(stage=stage, job_id=job_id, inputs=inputs, name=f"small-{stage}"))
    state = {"status": status, "inputs": inputs, "job": job_id, **more}
    run.stage(stage).set_state(StageState.model_validate(state))


def considered(run: Run, goals: list[str], *jobs: Job, recipe: Recipe = RECIPE) -> dict[str, Planned]:
    found = {job.id: job for job in jobs}
    planned = remote.consider(chain.plan(recipe, run, goals), Ledger(run), found, goals)
    return {p.name: p for p in planned}


def test_what_is_at_work_is_waited_for_and_not_run_again(run: Run) -> None:
    submitted(run, "stage1", "7")
    found = considered(run, ["stage2"], Job("7", "RUNNING", nodes="node1", name="small-stage1"))
    assert (found["stage1"].action, found["stage1"].why) == ("link", "at work: job 7, RUNNING on node1")
    assert found["stage2"].action == "run" and found["surgery"].action == "run", "what is missing is submitted"


def test_a_done_marker_is_believed_unless_slurm_calls_its_job_something_else(run: Run) -> None:
    submitted(run, "stage1", "7", "done")
    for state in ("NODE_FAIL", "CANCELLED", "FAILED"):
        with pytest.raises(ConfigError, match=f"Slurm calls its job 7 {state}.*make stage1 RUN=small"):
            considered(run, ["stage2"], Job("7", state, name="small-stage1"))
        assert considered(run, ["stage1"], Job("7", state, name="small-stage1"))["stage1"].action == "run"
    assert considered(run, ["stage2"], Job("7", "COMPLETED", name="small-stage1"))["stage1"].action == "reuse"
    assert considered(run, ["stage2"])["stage1"].action == "reuse", "forgotten by Slurm: the marker decides"
    assert considered(run, ["stage2"], Job("7", "FAILED", name="another"))["stage1"].action == "reuse"


def test_a_stage_that_failed_yesterday_is_not_built_on_and_not_run_unasked(run: Run) -> None:
    submitted(run, "stage1", "7", "failed", reason="row 7 is bad")
    with pytest.raises(ConfigError, match=r"as job 7 and has not succeeded \(failed row 7 is bad\)"):
        considered(run, ["stage2"])
    assert considered(run, ["stage1", "stage2"])["stage1"].action == "run"


def test_what_is_at_work_from_other_inputs_is_not_replaced(run: Run) -> None:
    submitted(run, "stage1", "7")
    other = Recipe.model_validate({**RECIPE.model_dump(), "stage1": {"lr": 1e-3}})
    with pytest.raises(ConfigError, match=r"stage1 is at work from other inputs \(job 7, PENDING\).*make cancel"):
        considered(run, ["stage1"], Job("7", "PENDING", name="small-stage1"), recipe=other)


def test_bfcl_is_not_asked_again_while_its_scores_are_on_their_way(run: Run) -> None:
    submitted(run, "bfcl", "7")
    submitted(run, "score", "8")
    done, waiting = Job("7", "COMPLETED", name="small-bfcl"), Job("8", "PENDING", name="small-score")
    found = considered(run, ["bfcl", "score"], done, waiting)
    assert (found["bfcl"].action, found["score"].action) == ("link", "link")


@pytest.mark.parametrize(
    ("stage", "links", "text"),
    [
        ("stage2", {"data": "3", "stage1": "5"}, "afterok:3:5"),
        ("bfcl", {"stage2": "6", "serve": "7"}, "after:7,afterok:6"),
        ("score", {"bfcl": "8"}, "afterany:8"),
        ("surgery", {}, None),
    ],
)
def test_a_link_says_what_the_step_needs(stage: str, links: dict[str, str], text: str | None) -> None:
    assert remote.dependency(chain.CHAIN, stage, links) == text


def test_the_server_of_a_chain_lives_until_the_scores(run: Run) -> None:
    planned = chain.plan(RECIPE, run, ["bfcl", "score"])
    serve = next(p for p in planned if p.name == "serve")
    assert remote.last_user(serve.step, planned) == "score"
    assert remote.last_user(serve.step, chain.plan(RECIPE, run, ["serve"])) == "", "asked for by itself it stays"


def test_jobs_know_where_slurm_is_but_not_whose_job_submitted_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    given = {"SLURM_CONF": "/x/slurm.conf", "SLURM_JOB_ID": "9", "RANK": "3", "OCTUPUS_START": "a:b:1.0"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with remote.outside():
        assert {name: os.environ.get(name) for name in given} == {**dict.fromkeys(given), "SLURM_CONF": "/x/slurm.conf"}
    assert {name: os.environ[name] for name in given} == given


def test_on_a_cluster_the_server_listens_where_other_nodes_reach_it(capsys: pytest.CaptureFixture[str]) -> None:
    here = RECIPE.model_copy(update={"serve": RECIPE.serve.model_copy(update={"host": "127.0.0.1"})})
    assert submit.heard_everywhere(here).serve.host == "0.0.0.0" and "other nodes" in capsys.readouterr().out
    assert submit.heard_everywhere(RECIPE) == RECIPE


@pytest.mark.parametrize(
    ("text", "value"), [("1-02:03:04", 93784.0), ("3:04", 184.0), ("UNLIMITED", None), ("INVALID", None), ("0:00", 0.0)]
)
def test_slurms_times(text: str, value: float | None) -> None:
    assert seconds(text) == value


def test_of_several_servers_the_first_is_waited_for_and_half_a_chain_is_taken_back(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = Recipe.model_validate({**RECIPE.model_dump(), "serve": {"replicas": 2}, "bfcl": {"categories": {"live": 1}}})
    asked, cancelled, numbers = dict[str, Any](), list[str](), iter("56789")

    def sbatch(folder: Path, python: str, parameters: dict[str, Any], calls: Any) -> tuple[str, list[Path]]:
        if "score" in parameters["job_name"]:
            raise ConfigError("invalid partition")
        asked[parameters["job_name"]] = parameters.get("dependency")
        return next(numbers), [folder / "log" for _ in calls]

    class Recorded(Queue):
        def cancel(self, ids: Any, signal: Any = None) -> None:
            cancelled.extend(ids)

    monkeypatch.setattr(remote, "_sbatch", sbatch)
    planned = [p for p in chain.plan(two, run, ["serve", "bfcl", "score"]) if p.name in ("serve", "bfcl", "score")]
    there = remote.Remote(two, cluster.load("devcluster"), Ledger(run), Recorded(), {**JOBS})
    with pytest.raises(ConfigError, match="invalid partition"):
        there.submit(planned, "abc", {})
    assert asked["small-bfcl"].startswith("after:5_0"), "an array's after: waits until every task has begun"
    assert cancelled == ["5", "6"] and {"5_0", "5_1"} <= {*Ledger(run).ended}
    state = run.stage("bfcl").state()
    assert state is not None and (state.status, state.reason) == ("failed", "cancelled: Slurm refuses score")


@pytest.mark.parametrize("line", ['{"executor": "slurm", "sta\n', "[1]\n"])
def test_a_damaged_line_of_the_ledger_is_a_sentence(run: Run, line: str) -> None:
    submitted(run, "stage1", "7")
    path = run.path / "jobs.jsonl"
    path.write_text(path.read_text() + line)
    with pytest.raises(JobError, match=r"jobs.jsonl, line 2, is damaged: take it out"):
        Ledger(run)
