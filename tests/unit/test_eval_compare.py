"""Runs held against each other, a gate that closes, the table of iterations, and the sentences about other runs."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from eval import compare, figures, iterations, report
from eval.weights import MEANS, overall
from octupus.config import BfclSection, ModelSection, Recipe
from octupus.errors import ConfigError
from octupus.publish import publish_json
from octupus.runs import Run
from slurm import after
from tests.unit.eval_finished_run import finished_run


def measured(folder: Path, right: dict[str, list[bool]], **more: object) -> Path:
    """A run with an entry for each value."""
    rows = [
        {"model": "octupus-FC", "category": c, "id": f"{c}_{i}", "correct": well}
        for c, some in right.items()
        for i, well in enumerate(some)
    ]
    (folder / "bfcl").mkdir(parents=True)
    (folder / "bfcl/entries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    accuracy = {c: sum(some) / len(some) for c, some in right.items()}
    counts = {c: len(some) for c, some in right.items()}
    summaries = {mean: overall(mean, accuracy, counts) for mean in MEANS}
    scores = {"main": "octupus-FC", "models": {"octupus-FC": {"summaries": summaries}}, "measured_at": 0.0}
    publish_json(folder / "bfcl/scores.json", {**scores, "harness": "bfcl-eval", **more})
    return folder


def some(share: float, n: int, seed: int) -> list[bool]:
    draw = random.Random(seed)
    return [draw.random() < share for _ in range(n)]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OCTUPUS_RUNS", str(tmp_path))
    base = {"simple_python": some(0.6, 300, 1), "irrelevance": some(0.8, 200, 2), "live_multiple": some(0.5, 300, 3)}
    measured(tmp_path / "a", base)
    measured(tmp_path / "same", {c: [*values] for c, values in base.items()})
    worse = {c: [well and i % 5 > 0 for i, well in enumerate(values)] for c, values in base.items()}
    measured(tmp_path / "worse", worse)
    one_off = {c: [*values[:-1], not values[-1]] for c, values in base.items()}
    measured(tmp_path / "noise", one_off)
    measured(tmp_path / "other", {"parallel": [True]})
    return tmp_path


def test_a_difference_is_paired_and_has_an_interval(runs: Path) -> None:
    whole, *each = compare.differences(runs / "a", runs / "worse")
    assert whole.high < 0 and whole.significant and whole.name == "Overall v3 (of 3 categories)"
    assert [d.name for d in each] == ["simple_python", "irrelevance", "live_multiple"] and whole.n == 800
    assert all(d.low <= d.second - d.first <= d.high for d in (whole, *each))
    same = compare.differences(runs / "a", runs / "same")[0]
    assert (same.low, same.high) == (0, 0) and not same.significant
    assert not compare.differences(runs / "a", runs / "noise")[0].significant, "one entry of hundreds is noise"
    assert compare.differences(runs / "worse", runs / "a")[0].low > 0


def test_the_gate(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert after.main(["compare"], {"RUNS": "a same noise", "GATE": "a"}) == 0
    assert after.main(["compare"], {"RUNS": "a worse", "GATE": "a"}) == 1
    assert "worse is significantly worse than a" in capsys.readouterr().out
    assert after.main(["compare"], {"RUNS": "worse a", "GATE": "worse"}) == 0, "better is no reason to fail"
    for given, words in (
        ({"RUNS": "a"}, "two runs or more"),
        ({"RUNS": "a nobody"}, "nobody has no BFCL scores"),
        ({"RUNS": "a other"}, "no common entry"),
        ({"RUNS": "a same", "GATE": "b"}, "none of RUNS"),
        ({"RUNS": "a ../same"}, "cannot name a folder"),
    ):
        assert after.main(["compare"], given) == 2 and words in capsys.readouterr().err


def test_iterations_hold_what_was_reported_and_what_was_measured(runs: Path) -> None:
    text = iterations.render([runs / "a", runs / "never-trained"])
    assert "| octupus V1 | 52.21 |" in text and "| octupus V2 | 55.69 |" in text
    assert "| a | " in text and "measured 1970-01-01" in text and "never-trained" not in text
    assert text.index("octupus V1") < text.index("octupus V2") < text.index("| a |")
    assert "No run of this repository has been measured" in iterations.render([])


def test_the_committed_iterations_are_the_generated_ones() -> None:
    root = Path(__file__).resolve().parents[2]
    written = (root / "docs/iterations.md").read_text(encoding="utf-8")
    for line in iterations.render([]).splitlines()[:8]:
        assert line in written


def test_a_run_that_does_not_beat_its_baseline_says_so_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished_run(tmp_path / "mine", monkeypatch)
    instruct = tmp_path / "instruct"
    shutil.copytree(run.path, instruct)
    recipe = Recipe(
        name="plus", model=ModelSection(base="Qwen/Qwen2.5-7B"), bfcl=BfclSection(beside=("instruct", "gone"))
    )
    facts = report.collect(recipe, run)
    assert facts["verdict"][0].startswith("This run does not beat its baseline, instruct.")
    assert any("not distinguishable from instruct" in line for line in facts["verdict"])
    whole = {"value": 0.57, "interval": (0.56, 0.58), "missing": []}
    lines = report.verdict({**facts, "others": [], "ours": {"Overall v3": whole}})
    assert lines[0].startswith("This run does not beat its baseline, Qwen2.5-7B-Instruct, forerunner's server.")
    high = {"value": 0.7, "interval": (0.69, 0.71), "missing": []}
    assert lines[0] != report.verdict({**facts, "others": [], "ours": {"Overall v3": high}})[0]
    assert not report.verdict({**facts, "others": [], "ours": {"Overall v3": high}})[0].startswith("This run does not")
    text = report.markdown(recipe, run)
    assert "| instruct |" in text and "| gone |" not in text


def test_throughput_tells_gpu_hours_of_gpus_only(tmp_path: Path) -> None:
    run = Run(tmp_path)
    rows = [{"step": i, "tokens_per_s": 100.0, "seconds": 36.0, "mfu": 0.4, "rss_mib": 1} for i in range(100)]
    run.stage("stage1").path.mkdir()
    run.stage("stage1").metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe(name="r", model=ModelSection(base="b"))
    (told,) = figures.throughput(recipe, run)
    assert told["rate"] == 100 and told["gpu_hours"] is None
    run.stage("stage1").metrics.write_text("".join(json.dumps({**row, "gpu_mib": 9}) + "\n" for row in rows))
    (told,) = figures.throughput(recipe, run)
    assert told["gpu_hours"] == pytest.approx(8.0) and told["mfu"] == 0.4


def test_a_foreign_name_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="two runs"):
        compare.compare({})
