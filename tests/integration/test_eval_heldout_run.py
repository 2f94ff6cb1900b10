"""Held-out accuracy against a fake endpoint: before and after, errors, a server that dies."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from eval import heldout
from eval.endpoint import BEFORE
from octupus.config import BfclSection, ModelSection, Recipe, ScratchModel, ServeSection
from octupus.errors import JobError
from octupus.runs import Run
from tests.integration.eval_fake_endpoint import fake_endpoint, reply

PARAMETERS = {"type": "object", "properties": {"port": {"type": "string"}}, "required": ["port"]}
TOOL = {"type": "function", "function": {"name": "get_tide", "parameters": PARAMETERS}}


def recipe(limit: int | None = None) -> Recipe:
    return Recipe(
        name="r",
        model=ModelSection(scratch=ScratchModel()),
        serve=ServeSection(ready_timeout_s=5),
        bfcl=BfclSection(heldout=limit),
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    rows = []
    for i in range(40):
        calls = [] if i % 4 == 3 else [{"name": "get_tide", "arguments": {"port": f"港{i}"}}]
        answer = {"role": "assistant", "content": "" if calls else "hello", "tool_calls": calls}
        split = "unseen" if i % 10 == 0 else "seen"
        messages = [{"role": "user", "content": f"{i}"}, answer]
        rows.append({"messages": messages, "tools": [{"raw": TOOL}], "split": split, "kind": "single"})
    path = tmp_path / "data" / "heldout.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Run(tmp_path)


def test_before_and_after(run: Run) -> None:
    trained = False

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        assert body["temperature"] == 0 and body["tool_choice"] == "auto" and body["tools"] == [TOOL]
        i = int(body["messages"][-1]["content"])
        if i % 4 == 3:
            return reply([], "hello") if trained else reply([("get_tide", {"port": 3})])
        return reply([("get_tide", {"port": f"港{i}" if trained else "x"})])

    with fake_endpoint(run, answer, BEFORE, "0") as endpoint:
        before = heldout.run(recipe(), run, "before")
        trained = True
        after = heldout.run(recipe(), run, "after")
        asked = len(endpoint.requests)
        assert asked == 80 and heldout.run(recipe(), run, "after") == after and len(endpoint.requests) == asked
        assert heldout.run(recipe(8), run, "after")["turns"] == 8, "another question is not answered from memory"
    assert [before["exact"][split]["correct"] for split in ("seen", "unseen")] == [0, 0]
    assert [after["exact"][split]["accuracy"] for split in ("seen", "unseen")] == [1, 1]
    assert before["no_call"]["seen"]["correct"] == 0 and after["no_call"]["seen"]["n"] == 10
    found = json.loads((run.path / "heldout/before.json").read_text())
    assert (found["legality"]["legal"], found["legality"]["illegal"]) == (30, 10)
    rows = [json.loads(line) for line in (run.path / "heldout/calls-before.jsonl").read_text().splitlines()]
    assert len(rows) == 40 and rows[0]["tools"] == [TOOL] and rows[0]["calls"][0]["name"] == "get_tide"


def test_errors_are_counted_and_wrong(run: Run) -> None:
    with fake_endpoint(run, lambda body: web.json_response({"error": {"message": "no"}}, status=500)):
        found = heldout.run(recipe(), run, "after")
    assert found["errors"] == 40 and found["exact"]["seen"]["correct"] == 0 and found["no_call"]["seen"]["correct"] == 0


def test_a_server_that_dies(run: Run) -> None:
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        if len(endpoint.requests) == 20:
            endpoint.stop_soon()
        return reply([])

    why = r"died while it was being measured.*baseline/log"
    with fake_endpoint(run, answer, BEFORE) as endpoint, pytest.raises(JobError, match=why):
        heldout.run(recipe(), run, "before")
    assert not (run.path / "heldout/before.json").exists()


def test_a_server_that_hangs(run: Run) -> None:
    hangs = threading.Event()

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        run.withdraw_endpoint(BEFORE)
        hangs.wait()
        return reply([])

    with fake_endpoint(run, answer, BEFORE):
        try:
            with pytest.raises(JobError, match="its heartbeat stopped or it withdrew"):
                heldout.run(recipe(), run, "before")
        finally:
            hangs.set()
