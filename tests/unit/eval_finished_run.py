"""A run folder as the last stages leave it, small and made up, for tests of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval import report
from eval.bfcl import publish_scores
from eval.heldout import summarise
from eval.sample import BfclData, Plan
from octupus.config import ModelSection, Recipe, ScratchModel
from octupus.publish import append_jsonl, publish_json
from octupus.runs import Run, StageState

HOSTILE = '</script><script>alert("x")</script>'
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}


def finished_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    run = Run(path)
    recipe = Recipe(name="demo", model=ModelSection(scratch=ScratchModel()))
    publish_json(path / "recipe.json", {"recipe": recipe.model_dump(mode="json")})
    _bfcl(run, monkeypatch)
    _heldout(run)
    for step in range(1, 1001):
        append_jsonl(run.stage("stage1").metrics, {"step": step, "loss": 3 / step, "lr": 1e-3, "tokens_per_s": 100.0})
    run.stage("stage1").set_state(StageState(status="done", started_at=1000.0, ended_at=1090.0))
    return run


def _reply(arguments: str | None) -> dict[str, Any]:
    call = {"name": "f", "arguments": arguments, "incomplete": False, "offered": True, "parameters": SCHEMA}
    return {"finish_reason": "stop", "seconds": 0.1, "usage": None, "calls": [call] if arguments else []}


def _bfcl(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    root = run.path / "bfcl"
    replies = {
        "simple_python_0": ([{"f": '{"x": 1}'}], '{"x": 1}'),
        "simple_python_1": (HOSTILE, None),
        "irrelevance_0": ("no", None),
        "irrelevance_1": ([{"f": '{"x"'}], '{"x"'),
    }
    wrong = {
        "simple_python_1": {"error": ["why"], "error_type": "ast_decoder:", "possible_answer": [{"f": {"x": [1]}}]}
    }
    for category in ("simple_python", "irrelevance"):
        mine = [id for id in replies if id.startswith(category)]
        rows = [{"id": id, "result": replies[id][0], "replies": [_reply(replies[id][1])]} for id in mine]
        failures = [{"id": id, **wrong[id]} for id in mine if id in wrong]
        for kind, lines in (("result", rows), ("score", [{}, *failures])):
            target = root / kind / "octupus-FC" / "non_live" / f"BFCL_v4_{category}_{kind}.json"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ids = {c: [id for id in replies if id.startswith(c)] for c in ("simple_python", "irrelevance")}
    publish_json(root / "subject.json", {"subject": "0", "served": "demo", "fingerprint": "sha256:00", "url": None})
    publish_scores(root, Plan({"octupus-FC": ids}, {"web_search_base": "no key"}, "octupus-FC"))
    cache = run.path / "cache"
    cache.mkdir()
    questions = [
        {"id": id, "category": c, "turns": [[{"role": "user", "content": "q"}]], "tools": [], "added": {}}
        for c, some in ids.items()
        for id in some
    ]
    (cache / "questions.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    (cache / "tools.jsonl").write_text("")
    monkeypatch.setattr(report.BfclData, "ready", classmethod(lambda cls: BfclData(cache)))


def _heldout(run: Run) -> None:
    wanted = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}]}
    common = {
        "split": "seen",
        "kind": "single",
        "messages": [{"role": "user", "content": "q"}],
        "tools": [TOOL],
        "wanted": wanted,
    }
    right = {"name": "f", "arguments": '{"x": 1}'}
    for label, calls in (("before", [[], []]), ("after", [[right], []])):
        rows = [
            {**common, "id": f"{i}:1", "calls": made, "content": "", "finish_reason": "stop", "exact": bool(made)}
            for i, made in enumerate(calls)
        ]
        for row in rows:
            append_jsonl(run.path / "heldout" / f"calls-{label}.jsonl", row)
        publish_json(run.path / "heldout" / f"{label}.json", summarise(rows))
