"""The report says the uncomfortable part first, stands alone, and cannot be broken by what a model wrote."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from eval import report
from octupus.config import ModelSection, Recipe, ScratchModel
from octupus.errors import JobError
from octupus.runs import Run
from tests.unit.eval_finished_run import HOSTILE, finished_run

TINY = Recipe(name="demo", model=ModelSection(scratch=ScratchModel()))
LARGE = Recipe(name="plus", model=ModelSection(base="Qwen/Qwen2.5-7B"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return finished_run(tmp_path / "demo", monkeypatch)


class Page(HTMLParser):
    """What a browser would load from elsewhere, and the embedded data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.data, self._inside = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._inside = tag == "script" and given.get("id") == "data"
        self.outside += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith(("#", "data:"))]

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        self.data += data if self._inside else ""


def test_the_page_stands_alone_and_holds_what_the_model_wrote_as_text(run: Run) -> None:
    report.run(TINY, run)
    text = (run.path / "report/index.html").read_text()
    page = Page(text)
    assert page.outside == [] and "url(" not in text and "@import" not in text
    data = json.loads(page.data)
    assert any(HOSTILE in failure["got"] for failure in data["failures"])
    assert HOSTILE not in text.replace(page.data, "")
    assert [c["name"] for c in data["categories"]] == ["simple_python", "irrelevance"]
    assert len(data["curves"]["stage1"]) <= 300 and data["curves"]["stage1"][-1][0] == 1000


def test_a_tiny_model_is_told_so_first(run: Run) -> None:
    facts = report.collect(TINY, run)
    assert facts["verdict"][0].startswith("A tiny model scores near nothing on BFCL")
    assert any("silence, not judgement" in line for line in facts["verdict"])
    assert any(re.search(r"trained on.*: 0\.0% → 50\.0% of 2", line) for line in facts["verdict"])
    assert "not comparable with a board" in report.collect(LARGE, run)["verdict"][0]


@pytest.mark.parametrize(("value", "word"), [(0.40, "below"), (0.557, "not distinguishable from"), (0.80, "above")])
def test_a_whole_run_is_held_against_its_baseline(run: Run, value: float, word: str) -> None:
    facts = report.collect(LARGE, run)
    whole = {"value": value, "interval": (value - 0.01, value + 0.01), "missing": []}
    lines = report.verdict({**facts, "ours": {"Overall v3": whole}})
    assert f"That is {word} Qwen2.5-7B-Instruct" in lines[0]
    assert f"{word} octupus V2" in " ".join(lines)


def test_terminal_and_markdown(run: Run) -> None:
    out = StringIO()
    report.terminal(run, Console(file=out, width=80))
    assert re.search(r"irrelevance\s+2/240\s+50\.0", out.getvalue()) and "Legal calls: 2 of 3" in out.getvalue()
    report.run(TINY, run)
    text = (run.path / "report/report.md").read_text()
    assert (
        "| xLAM-2-8b |" in text
        and "Not run: web_search_base (no key)." in text
        and "| stage1 | done | 1 min 30 s |" in text
    )


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="make bfcl"):
        report.run(TINY, Run(tmp_path))
    with pytest.raises(JobError, match=r"no recipe\.json"):
        report.terminal(Run(tmp_path))


def test_a_stopped_metrics_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert report.loss_curve(path) == []
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": null}\n{"step": 3, "loss": 1.0}\n')
    assert report.loss_curve(path) == [[1, 2.0], [3, 1.0]]
