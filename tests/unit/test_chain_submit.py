"""From a command line to a frozen run folder; what is refused within seconds; status, cancel and the view of a run."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from octupus.config import Recipe
from octupus.errors import ConfigError
from octupus.publish import publish_json
from octupus.runs import Endpoint, Progress, Run, StageState
from slurm import chain, cluster, freeze, reap, status, submit
from slurm.cluster import Cluster
from slurm.stage import Frozen, newest_model
from slurm.submit import Asked
from slurm.view import View, row

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"name": "small", "model": {"scratch": {}}, "stage1": {"ranks_per_node": 2}, "stage2": {"ranks_per_node": 1}}


def recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate({**SMALL, **changes})


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCTUPUS_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def run(runs: Path) -> Run:
    made = Run(runs / "small")
    publish_json(made.path / "recipe.json", Frozen(recipe=recipe(), code="abc"))
    return made


def test_a_command_line_and_makes_variables() -> None:
    asked = Asked.of(
        ["demo"], {"SET": "stage1.lr=1e-5 'wire.system=two words'", "DRY": "1", "FRESH": "0", "RUN": " x "}
    )
    assert (asked.goals, asked.recipe, asked.run, asked.dry, asked.fresh) == (None, "demo", "x", True, False)
    assert asked.overrides == ("stage1.lr=1e-5", "wire.system=two words")
    assert Asked.of(["stage", "data", "stage1"], {}).goals == ("data", "stage1")
    for words in ([], ["stage"], ["demo", "x"], ["nonsense"]):
        with pytest.raises(ConfigError, match="usage"):
            Asked.of(words, {})
    with pytest.raises(ConfigError, match="No closing quotation"):
        Asked.of(["demo"], {"SET": "a='b"})


def test_the_command_that_goes_on_can_be_typed_again() -> None:
    asked = Asked.of(["demo"], {"SET": "stage1.lr=1e-5 stage2.lr=1", "RUN": "other"})
    assert asked.again == "make demo RUN=other SET='stage1.lr=1e-5 stage2.lr=1'"
    assert Asked.of(["stage", "stage1"], {"RECIPE": "small"}).again == "make stage1 RECIPE=small"


@pytest.mark.parametrize("name", ["../x", ".hidden", "a/b", "-x", "a b", "%j"])
def test_a_run_has_a_name_that_a_folder_can_have(runs: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a folder"):
        submit.run_named(name)
    assert submit.run_named("中文-1.5+x").path == runs / "中文-1.5+x"


def test_an_existing_run_keeps_its_recipe_where_none_is_named(run: Run) -> None:
    found, where = submit.resolve(Asked(goals=("bfcl",), run="small"))
    assert (found, where.path) == (recipe(), run.path)
    found, where = submit.resolve(Asked(goals=None, recipe="demo", run="small"))
    assert (found.name, where.path) == ("demo", run.path)
    with pytest.raises(ConfigError, match="no recipe 'small'"):
        submit.resolve(Asked(goals=("data",), run="small", overrides=("data.seed=1",)))


def test_what_cannot_run_here_is_refused_with_the_way_out(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "has_gpu", lambda: False)
    here, big = cluster.load("local"), {"base": "Qwen/Qwen2.5-7B"}
    for made, where, words in (
        (recipe(stage1={"nodes": 4, "global_batch": 32}), here, "wants 4 nodes .*make demo"),
        (recipe(model={"base": "/no/such/folder"}), here, "missing base model: no folder '/no/such/folder'"),
        (recipe(model=big), here, "starts from Qwen/Qwen2.5-7B, and this machine has no GPU.*make demo"),
    ):
        with pytest.raises(ConfigError, match=words):
            submit.check_can_run(made, Run(runs / "x"), where, chain.plan(made, Run(runs / "x")))
    submit.check_can_run(recipe(), Run(runs / "x"), here, chain.plan(recipe(), Run(runs / "x")))
    monkeypatch.setattr(submit, "has_gpu", lambda: True)
    submit.check_can_run(recipe(model=big), Run(runs / "x"), here, chain.plan(recipe(model=big), Run(runs / "x")))


def test_a_snapshot_holds_the_code_and_editing_the_checkout_does_not_change_it(tmp_path: Path) -> None:
    checkout, run = tmp_path / "checkout", Run(tmp_path / "run")
    for room in freeze.ROOMS:
        (checkout / room / "__pycache__").mkdir(parents=True)
        (checkout / room / "a.py").write_text("x = 1\n")
        (checkout / room / "__pycache__" / "a.pyc").write_text("no")
    (checkout / ".venv").mkdir()
    first = freeze.snapshot(run, checkout)
    assert freeze.snapshot(run, checkout) == first, "the same code is copied once"
    (checkout / "octupus" / "a.py").write_text("x = 2\n")
    second = freeze.snapshot(run, checkout)
    assert first != second
    assert (run.path / "code" / first / "octupus/a.py").read_text() == "x = 1\n"
    assert sorted(p.name for p in (run.path / "code").iterdir()) == sorted([first, second])
    assert sorted(p.name for p in (run.path / "code" / first).rglob("*.py*")) == ["a.py"] * 4


def test_a_full_disk_names_the_file_and_keeps_no_half_of_a_snapshot(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(source), None, str(target))

    monkeypatch.setattr(freeze.shutil, "copyfile", full)
    monkeypatch.setenv("RUN", run.name)
    assert submit.main(["stage", "surgery"]) == 1
    assert f"No space left on device: {run.path / 'code'}" in capsys.readouterr().err
    with pytest.raises(OSError, match="No space"):
        freeze.snapshot(run)
    assert not [*(run.path / "code").iterdir()]


def test_freezing_writes_what_the_run_rests_on_and_names_what_changes(run: Run) -> None:
    value = freeze.freeze(run, recipe(), cluster.load("local"))
    raw = json.loads((run.path / "recipe.json").read_text())
    assert Frozen.model_validate(raw) == value
    assert raw["versions"]["submitit"] == "1.5.4" and (run.path / "code" / raw["code"] / "slurm/submit.py").is_file()
    assert freeze.changes(run, recipe()) == []
    assert freeze.changes(run, recipe(stage2={"ranks_per_node": 1, "lr": 1e-3})) == ["stage2.lr: 2e-05 -> 0.001"]


def test_a_snapshot_is_what_jobs_import(run: Run, tmp_path: Path) -> None:
    value = freeze.freeze(run, recipe(), cluster.load("local"))
    environment = {**os.environ, **submit.environment(run, value.code, Cluster(name="x", env={"PYTHONPATH": "/more"}))}
    command = [sys.executable, "-P", "-c", "import slurm.jobs; print(slurm.jobs.__file__)"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(run.path / "code" / value.code / "slurm/jobs.py")
    assert environment["PYTHONPATH"].endswith(":/more")


def test_dry_prints_recipe_graph_and_sbatch_texts_and_touches_nothing(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit.submit(Asked(("stage1", "stage2"), recipe="v2", cluster="example-modules", dry=True)) == 0
    out = capsys.readouterr().out
    assert "base: Qwen/Qwen2.5-7B" in out and "stage2: run after data, stage1; 1 node(s) x 8 rank(s)" in out
    assert "#SBATCH --job-name=v2-stage1" in out and "GPU-hours" in out
    assert not runs.exists()


def test_a_server_that_is_up_is_used_unless_its_model_is_about_to_change(run: Run) -> None:
    plan = chain.plan(recipe(), run, ["bfcl"])
    assert submit.without_server_that_is_up(run, plan) == plan
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        there = Endpoint(
            url=f"http://127.0.0.1:{server.server_port}", model="m", instance="i", heartbeat_at=time.time()
        )
        run.publish_endpoint("0", there)
        assert [p.name for p in submit.without_server_that_is_up(run, plan)] == ["bfcl"]
        with pytest.raises(ConfigError, match="make cancel RUN=small STAGE=serve"):
            submit.without_server_that_is_up(run, chain.plan(recipe(), run))
        server.shutdown()
    submit.withdraw_dead(run)
    assert submit.without_server_that_is_up(run, plan) == plan, "it was killed; its heartbeat is not stale yet"
    assert run.endpoints() == {}


def test_a_submit_loads_no_torch(runs: Path) -> None:
    code = "import sys, slurm.submit, slurm.status, slurm.local; print(sorted({'torch', 'vllm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_errors_of_a_command_line_are_one_sentence(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit.main(["stage", "nonsense"]) == 2
    assert status.main(["logs"], {"RUN": "never"}) == 2
    err = capsys.readouterr().err
    assert "has no stage nonsense" in err and "no run 'never'" in err and "Traceback" not in err


def test_a_run_of_another_version_is_a_sentence_and_hides_no_other(run: Run, capsys: Any) -> None:
    old = json.loads((run.path / "recipe.json").read_text())
    old["recipe"]["stage1"]["once_was"] = 1
    publish_json(run.path.with_name("old") / "recipe.json", old)
    torn = run.path.with_name("torn") / "recipe.json"
    torn.parent.mkdir()
    torn.write_text('{"rec')
    assert status.main(["status"], {}) == 0
    out = capsys.readouterr().out
    assert "once_was: unknown key" in out and "another version" in out and "is damaged" in out
    assert "surgery" in out, "the run that can be read is shown"
    assert status.main(["cancel"], {"RUN": "small", "STAGE": "stage9"}) == 2
    assert "no such stage; there are: surgery" in capsys.readouterr().err


def test_the_model_served_is_that_of_the_last_finished_stage(run: Run) -> None:
    run.stage("surgery").set_state(StageState(status="done"))
    assert newest_model(run) == run.path / "surgery/model"
    run.stage("stage1").set_state(StageState(status="done"))
    run.stage("stage2").set_state(StageState(status="failed"))
    assert newest_model(run) == run.path / "stage1/export"


def test_make_hands_values_over_unexpanded(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path / "Makefile")
    (tmp_path / "probe.mk").write_text('probe:\n\tprintf "%s" "$$SET"\n')
    value = "a=$(shell touch made) `touch made` $HOME ; touch made '"
    command = ["make", "-s", "-f", "Makefile", "-f", "probe.mk", "probe", f"SET={value}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == value and not (tmp_path / "made").exists()


def test_make_exports_what_was_given_and_nothing_else(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path / "Makefile")
    (tmp_path / "probe.mk").write_text("probe:\n\tenv\n")
    command = ["make", "-s", "-f", "Makefile", "-f", "probe.mk", "probe", "STAGE=stage1"]
    env = {"PATH": os.environ["PATH"], "RUN": "mine"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    seen = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert (seen["STAGE"], seen["RUN"]) == ("stage1", "mine")
    assert seen["PYTHONUTF8"] == "1", "Chinese can be printed under any LANG"
    assert not {"RANK", "RECIPE", "SET", "DEVICE"} & {*seen}  # an empty RANK stops DeepSpeed in a process of its own


def test_help_lists_the_everyday_targets_first() -> None:
    def listed(*words: str) -> list[str]:
        done = subprocess.run(["make", "help", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return [line.split()[1] for line in done.stdout.splitlines() if line.startswith("  make ")]

    everyday = listed()
    assert everyday[:2] == ["demo", "test"] and {"stage1", "stage2", "serve", "bfcl", "status", "report"} <= {*everyday}
    assert "bfcl-data" in listed("ALL=1") and "bfcl-data" not in everyday


# ---- what a run looks like


def told(run: Run, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    status.all_of([run], console)
    made = console.file
    assert isinstance(made, io.StringIO)
    return made.getvalue()


def test_status_shows_each_stage_with_its_figures(run: Run) -> None:
    now = time.time()
    run.stage("data").set_state(StageState(status="done", started_at=now - 90, ended_at=now - 30))
    run.stage("stage1").set_state(StageState(status="running", started_at=now - 20))
    progress = Progress(done=3, total=12, unit="steps", rate=0.5, note="loss 2.5", heartbeat_at=now)
    publish_json(run.stage("stage1").path / "progress.json", progress)
    run.stage("stage2").set_state(StageState(status="failed", reason="no space left", started_at=now, ended_at=now))
    lines = {line.split()[0]: line for line in told(run).splitlines() if line.strip()}
    assert "done" in lines["data"] and "1:00" in lines["data"]
    assert "3/12 steps, 0.5/s, 0:18 left, loss 2.5" in lines["stage1"]
    assert "failed" in lines["stage2"] and "no space left" in lines["stage2"]
    assert "waiting" in lines["report"] and "baseline" not in lines, "this recipe holds nothing out"


def test_a_running_stage_without_a_sign_of_life_is_called_dead(run: Run) -> None:
    run.stage("stage1").set_state(StageState(status="running", started_at=time.time() - 1000))
    publish_json(run.stage("stage1").path / "heartbeat.json", {"host": "h", "pid": 1, "at": time.time()})
    os.utime(run.stage("stage1").path / "heartbeat.json", (time.time() - 700,) * 2)
    assert "dead" in told(run) and "no sign of life for 11:4" in told(run)


def test_progress_of_an_earlier_attempt_is_not_shown(run: Run) -> None:
    progress = Progress(done=3, total=12, unit="steps", heartbeat_at=time.time() - 50)
    publish_json(run.stage("stage1").path / "progress.json", progress)
    run.stage("stage1").set_state(StageState(status="running", started_at=time.time(), attempt=2))
    assert row(run, next(s for s in chain.CHAIN if s.name == "stage1")).progress is None


def test_off_a_terminal_each_change_is_one_line(run: Run) -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    planned = [p for p in chain.plan(recipe(), run) if p.name in ("data", "stage1")]
    with View(run, planned, console) as view:
        view.begun.add("data")
        for state in ("submitted", "running", "running", "done"):
            over = time.time() if state == "done" else None
            run.stage("data").set_state(StageState(status=state, started_at=time.time(), ended_at=over))
            view.show()
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert [line.split(";")[0].split(" in ")[0] for line in lines] == ["data: submitted", "data: running", "data: done"]
    assert all("log: " in line for line in lines)


def test_a_terminal_gets_a_table_that_is_drawn_anew_in_place(run: Run) -> None:
    console = Console(file=io.StringIO(), width=80, height=30, force_terminal=True, color_system=None)
    with View(run, chain.plan(recipe(), run), console) as view:
        view.begun.add("stage1")
        run.stage("stage1").set_state(StageState(status="running", started_at=time.time()))
        view.show()
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "\x1b[1A" in text, "the cursor goes back up"
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text.replace("\x1b[1A", "\n"))
    told = "".join(plain.split())  # where a long path is folded depends on the temporary folder
    assert "logofstage1:" in told and "rank0.out" in told, "the log of what runs"
    assert not [line for line in plain.splitlines() if len(line) > 80 and "log of" not in line]


# ---- ending


def test_only_processes_of_this_run_and_stage_are_ended(run: Run) -> None:
    def start(of: Path, stage: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sleep", "600"], env={**os.environ, **reap.mark(of, stage, 1)})

    other = Path(f"{run.path}-2")
    mine, theirs, serving = start(run.path, "stage1"), start(other, "stage1"), start(run.path, "serve")
    try:
        assert {p.pid for p in reap.marked(run.path)} == {mine.pid, serving.pid}
        run.stage("stage1").set_state(StageState(status="running"))
        status.cancel(run, "stage1")
        assert mine.wait(5) == -15 and theirs.poll() is None and serving.poll() is None
        state = run.stage("stage1").state()
        assert state is not None and (state.status, state.reason) == ("failed", "cancelled")
    finally:
        for process in (mine, theirs, serving):
            process.kill()
            process.wait()
