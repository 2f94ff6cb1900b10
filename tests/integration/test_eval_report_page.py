"""The report in a real browser: no console errors, figures drawn, tables there, filters at work."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from eval import report
from octupus.config import ModelSection, Recipe, ScratchModel
from octupus.publish import append_jsonl
from tests.unit.eval_finished_run import finished_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--hide-scrollbars",
]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; apt-get install chromium")
def test_the_page_in_a_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished_run(tmp_path / "demo", monkeypatch)
    for step, value in ((100, 0.1), (200, 0.3)):
        told = {"stage": "stage2", "step": step, "value": value, "interval": [value - 0.05, value + 0.05], "entries": 4}
        append_jsonl(run.path / "bfcl/checkpoints.jsonl", told)
    report.run(Recipe(name="demo", model=ModelSection(scratch=ScratchModel())), run)
    picture = tmp_path / "page.png"
    browse = [str(CHROMIUM), *QUIET, "--window-size=1000,4000", (run.path / "report/index.html").as_uri()]
    shot = subprocess.run(
        [*browse, f"--user-data-dir={tmp_path / 'one'}", f"--screenshot={picture}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    drawn = subprocess.run(
        [*browse, f"--user-data-dir={tmp_path / 'two'}", "--dump-dom"], capture_output=True, text=True, timeout=120
    )
    assert picture.stat().st_size > 50_000, shot.stderr[-2000:]
    assert not re.findall(r"CONSOLE.*", shot.stderr + drawn.stderr)
    page = drawn.stdout
    assert 'data-drawn="yes"' in page and 'data-overflowing="0"' in page, "nothing is wider than its card at 1000 px"
    for chart, shape in (
        ("categories", "<rect"),
        ("anchors", "<circle"),
        ("heldout", "<circle"),
        ("stage1", "<path"),
        ("steps", "<path"),
    ):
        (inside,) = re.findall(rf'<svg id="chart-{chart}".*?</svg>', page, flags=re.DOTALL)
        assert shape in inside, chart
    for table in ("table-bfcl", "table-anchors", "table-kinds"):
        assert f'id="{table}"' in page
    assert page.count('<details class="fail">') == 3 and "<script>alert" not in page
