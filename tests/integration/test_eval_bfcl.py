"""The stock ``bfcl generate`` and ``bfcl evaluate`` against a fake endpoint: truth, lies, breakage, kills."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import eval.bfcl
from eval import report
from eval.sample import CLI, BfclData, harness_python
from eval.scores import failed, read_results
from octupus.config import BfclSection, ModelSection, Recipe, ScratchModel, ServeSection
from octupus.errors import ConfigError, JobError
from octupus.runs import Run
from tests.integration.eval_fake_endpoint import fake_endpoint, perfect, reply


@pytest.fixture(scope="module", autouse=True)
def _environment() -> None:
    try:
        harness_python()
    except ConfigError as error:
        pytest.skip(str(error))
    BfclData.ready()


def recipe(categories: dict[str, int | None], **more: Any) -> Recipe:
    options: dict[str, Any] = {"models": ("octupus-FC",), "threads": 4, "retries": 0, **more}
    return Recipe(
        name="r",
        model=ModelSection(scratch=ScratchModel()),
        serve=ServeSection(max_model_len=65536, default_max_tokens=64, ready_timeout_s=5),
        bfcl=BfclSection(categories=categories, **options),
    )


def harness_processes() -> list[int]:
    """Harness processes that this process started and that stay; a tracker of theirs ends just after its parent."""
    deadline = time.monotonic() + 10
    while (found := started_here()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def started_here() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"OCTUPUS_BFCL_PARENT={os.getpid()}\0".encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue  # not ours, or gone
    return found


def scores(run: Run, model: str = "octupus-FC") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.path / "bfcl" / "scores.json").read_text())
    return found["models"][model]


def test_the_truth_scores_full_marks_under_both_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALL_PROXY", "all_proxy", "http_proxy", "https_proxy"):  # what a user's shell may hold; none answers
        monkeypatch.setenv(name, "socks5://127.0.0.1:9" if "all" in name.lower() else "http://127.0.0.1:9")
    run = Run(tmp_path)
    wanted = {"simple_python": 5, "parallel": 5, "irrelevance": 5, "multi_turn_base": 2}
    asked = recipe(wanted, models=("gpt-4-turbo-2024-04-09-FC", "octupus-FC"), side_entries=2, repeats=2)
    with fake_endpoint(run, perfect(list(wanted))) as endpoint:
        outputs = eval.bfcl.measure(asked, run)
        found, side = scores(run), scores(run, "gpt-4-turbo-2024-04-09-FC")
    assert {c: (f["n"], f["correct"], f["harness_correct"]) for c, f in found["categories"].items()} == {
        c: (n, n, n) for c, n in wanted.items()
    }
    assert {c: f["correct"] for c, f in side["categories"].items()} == {
        "simple_python": 2,
        "parallel": 2,
        "irrelevance": 2,
    }
    assert found["legality"]["illegal"] == 0 and found["legality"]["legal"] > 15 and outputs["errors"] == 0
    assert (
        found["summaries"]["Overall v3"]["value"] == 1 and "live_simple" in found["summaries"]["Overall v3"]["missing"]
    )
    assert found["stock_overall"].endswith("%")
    again = scores(run, "octupus-FC-seed1")["categories"]
    assert {c: f["correct"] for c, f in again.items()} == wanted, "a repeat is asked and judged as the first time"
    seeds = {(body["model"], body.get("seed")) for body in endpoint.requests}
    assert seeds == {("gpt-4-turbo-2024-04-09", None), ("octupus-FC", None), ("octupus-FC-seed1", 1)}
    repeated = json.loads((run.path / "bfcl" / "scores.json").read_text())["repeats"]["Overall v3"]
    assert repeated == {"runs": 2, "mean": 1.0, "sd": 0.0}
    progress = run.stage("bfcl/tasks/all").progress()
    assert progress is not None and progress.done == progress.total == 40


def test_entries_are_spread_over_replicas_and_each_stays_with_one(tmp_path: Path) -> None:
    run, wanted = Run(tmp_path), {"simple_python": 6, "multi_turn_base": 2}
    asked = recipe(wanted)
    with fake_endpoint(run, perfect(list(wanted)), "0") as one, fake_endpoint(run, perfect(list(wanted)), "1") as two:
        eval.bfcl.measure(asked, run)
    first, second = ({body["messages"][0]["content"] for body in replica.requests} for replica in (one, two))
    assert len(first) == len(second) == 4 and not first & second, "by entry: its later turns go where its first went"
    assert len(one.requests) + len(two.requests) > 10
    assert {c: f["correct"] for c, f in scores(run)["categories"].items()} == wanted


def test_a_replica_that_dies_is_told_and_the_next_call_goes_on_with_the_others(tmp_path: Path) -> None:
    run, truth = Run(tmp_path), perfect(["simple_python"])
    with fake_endpoint(run, truth, "0"), fake_endpoint(run, truth, "1") as mortal:

        def answer(body: dict[str, Any]) -> Any:
            if len(mortal.requests) > 2:
                mortal.stop_soon()
            return truth(body)

        mortal.answer = answer
        with pytest.raises(JobError, match=rf"the server at {mortal.url} died while it was being measured"):
            eval.bfcl.measure(recipe({"simple_python": 30}), run)
        eval.bfcl.measure(recipe({"simple_python": 30}), run)
    assert scores(run)["categories"]["simple_python"]["correct"] == 30


def test_lies_and_breakage_score_nothing(tmp_path: Path) -> None:
    """AST categories get wrong answers; irrelevance gets server errors, broken JSON, cut calls and no usage."""
    run = Run(tmp_path)
    wrong = perfect(["simple_python", "multiple"], wrong=True)
    turn = Counter[str]()

    def answer(body: dict[str, Any]) -> dict[str, Any] | web.Response:
        try:
            return wrong(body)
        except LookupError:
            pass
        name, question = body["tools"][0]["function"]["name"], body["messages"][0]["content"]
        kind = turn.setdefault(question, len(turn) % 4)
        if kind == 0:
            return web.json_response({"error": {"message": "broken on purpose"}}, status=500)
        if kind == 1:
            return reply([(name, '{"a": ')])
        if kind == 2:
            return reply([(name, '{"a": ')], finish="length")
        return {**reply([], "no tool fits"), "usage": None}

    with fake_endpoint(run, answer):
        eval.bfcl.measure(recipe({"simple_python": 4, "multiple": 4, "irrelevance": 8}), run)
    found = scores(run)
    assert [found["categories"][c]["correct"] for c in ("simple_python", "multiple", "irrelevance")] == [0, 0, 0]
    assert found["categories"]["irrelevance"]["harness_correct"] == 8, "the stock harness counts all of it as right"
    assert found["categories"]["irrelevance"]["kinds"] == {"server error": 4, "illegal call": 2, "cut call": 2}
    assert found["errors"] == 4 and found["legality"]["cut"] == 2
    told = report.markdown(recipe({}), run)
    assert "ended in an error: 4" in told and re.search(r"\| irrelevance \| 8/240 \| 0\.0 \|.*\| 100\.0 \|", told)
    assert re.search(r"\| kinds of error \|.*\| cut call \| illegal call \| server error \|", told)


@pytest.fixture
def unscored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the stock evaluation, which has tests of its own here: every start of the harness takes seconds."""
    monkeypatch.setattr(eval.bfcl, "evaluate", lambda python, root, chosen: None)
    monkeypatch.setattr(eval.bfcl, "publish_scores", lambda root, chosen: {})


def answered(run: Run) -> set[str]:
    rows = read_results(run.path / "bfcl", "octupus-FC").values()
    return {row["id"] for row in rows if not failed(row)}


def test_a_killed_harness_says_so_and_goes_on_where_it_was(tmp_path: Path, unscored: None) -> None:
    run, right = Run(tmp_path), perfect(["simple_python"])
    asked = recipe({"simple_python": 12}, threads=1)
    killing = True

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        if killing and len(endpoint.requests) == 6:
            for pid in harness_processes():
                os.kill(pid, signal.SIGKILL)
        return right(body)

    with fake_endpoint(run, answer) as endpoint:
        with pytest.raises(
            JobError, match=r"killed by signal 9 after (\d+) answers, which are kept.*generate-all\.txt"
        ):
            eval.bfcl.measure(asked, run)
        assert harness_processes() == []
        (results,) = (run.path / "bfcl/result").rglob("*_result.json")
        kept = answered(run)
        assert 0 < len(kept) < 12
        with results.open("a") as stream:
            stream.write('{"id": "simple_python_torn", "result"')  # as a kill in the middle of a write leaves it
        killing = False
        before = len(endpoint.requests)
        eval.bfcl.measure(asked, run)
        assert len(endpoint.requests) - before == 12 - len(kept), "what had an answer is not asked again"
    assert len(answered(run)) == 12 and len(results.read_text().splitlines()) == 12


def test_errors_are_asked_again(tmp_path: Path, unscored: None) -> None:
    run, right = Run(tmp_path), perfect(["simple_python"])

    def answer(body: dict[str, Any]) -> dict[str, Any] | web.Response:
        if len(endpoint.requests) <= 3:  # the client tries a request three times
            return web.json_response({"error": {"message": "for once"}}, status=500)
        return right(body)

    with fake_endpoint(run, answer) as endpoint:
        eval.bfcl.measure(recipe({"simple_python": 3}, threads=1, retries=1), run)
    assert len(endpoint.requests) == 6 and len(answered(run)) == 3


def test_a_server_that_dies_ends_the_run_with_its_log(tmp_path: Path) -> None:
    run, right = Run(tmp_path), perfect(["simple_python"])
    stopping: list[Any] = []

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        if len(endpoint.requests) == 4:
            stopping.append(endpoint.stop_soon())
        return right(body)

    why = r"died while it was being measured.*serve/log.*goes on from there"
    with fake_endpoint(run, answer) as endpoint, pytest.raises(JobError, match=why):
        eval.bfcl.measure(recipe({"simple_python": 40}, threads=1), run)
    assert stopping and harness_processes() == []
    assert not (run.path / "bfcl/scores.json").exists()


def test_the_harness_does_not_outlive_its_stage(tmp_path: Path) -> None:
    environment = {**os.environ, "OCTUPUS_BFCL_PARENT": "1", "BFCL_PROJECT_ROOT": str(tmp_path)}
    command = [harness_python(), "-I", CLI, "models"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "has ended" in done.stderr


def test_traps_are_named(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(ConfigError, match=r"my_model.*'_'"):
        eval.bfcl.measure(recipe({"simple_python": 1}, models=("my_model",)), run)
    run.stage("bfcl").path.mkdir(parents=True)
    (run.stage("bfcl").path / ".env").write_text("OPENAI_BASE_URL=http://elsewhere\n")
    with pytest.raises(ConfigError, match=r"\.env would override"):
        eval.bfcl.measure(recipe({"simple_python": 1}), run)


NOTHING_TO_CALL = {"irrelevance": 0.42, "live_irrelevance": 0.57}
"""Of entries that offer no tool that could be called: there even the wrong model is right."""


@pytest.mark.full
@pytest.mark.parametrize(
    ("category", "ceiling"),
    [("simple_java", 89.00), ("live_simple", 99.22), ("live_multiple", 99.72), ("multi_turn_long_context", 100.0)]
    + [(name, 100.0) for name in ("simple_python", "simple_javascript", "multiple", "parallel", "parallel_multiple")]
    + [(name, 100.0) for name in ("irrelevance", "live_parallel", "live_parallel_multiple", "live_irrelevance")]
    # The truth of multi_turn_miss_func_49 calls a tool before it is on offer: right for the harness, illegal for us.
    + [("multi_turn_base", 100.0), ("multi_turn_miss_func", 99.5), ("multi_turn_miss_param", 100.0)]
    + [(name, 100.0) for name in ("live_relevance", "memory_kv", "memory_rec_sum")],
)
@pytest.mark.parametrize("wrong", [False, True])
def test_ceilings(tmp_path: Path, category: str, ceiling: float, wrong: bool) -> None:
    run = Run(tmp_path)
    with fake_endpoint(run, perfect([category], wrong)):
        eval.bfcl.measure(recipe({category: None}), run)
    expected = NOTHING_TO_CALL.get(category, 0.0) if wrong else ceiling
    assert round(100 * scores(run)["categories"][category]["accuracy"], 2) == expected
