"""Which entries are asked, and what is said about those that are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.sample import BfclData, plan
from octupus.config import BfclSection, ServeSection
from octupus.errors import ConfigError

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.fixture
def data(tmp_path: Path) -> BfclData:
    questions = [(f"simple_python_{i}", "simple_python", 1) for i in range(20)]
    questions += [(f"multi_turn_base_{i}", "multi_turn_base", 1 + i) for i in range(4)]
    questions += [("memory_kv_prereq_0-student-0", "memory_kv", 1), ("memory_kv_0-student-0", "memory_kv", 1)]
    rows = [
        {"id": id, "category": c, "turns": [[{"role": "user", "content": "q"}]] * n, "tools": ["t"], "added": {}}
        for id, c, n in questions
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "tools.jsonl").write_text(json.dumps({"digest": "t", "tool": TOOL}) + "\n")
    return BfclData(tmp_path)


def made(data: BfclData, categories: dict[str, int | None], **more: object):
    section = BfclSection(categories=categories, models=("side-FC", "octupus-FC"), **more)
    return plan(section, ServeSection(max_model_len=8192, default_max_tokens=100), data, lambda messages, tools: 100)


def test_samples_are_seeded_and_in_order(data: BfclData) -> None:
    ids = made(data, {"simple_python": 5}).ids["octupus-FC"]["simple_python"]
    assert ids == made(data, {"simple_python": 5}).ids["octupus-FC"]["simple_python"]
    assert ids == sorted(ids, key=lambda id: int(id.rsplit("_", 1)[1])) and len(set(ids)) == 5
    assert ids != made(data, {"simple_python": 5}, seed=1).ids["octupus-FC"]["simple_python"]


def test_only_the_last_name_gets_everything(data: BfclData) -> None:
    found = made(data, {"simple_python": None, "multi_turn_base": 1, "memory_kv": None}, side_entries=3)
    assert {c: len(ids) for c, ids in found.ids["side-FC"].items()} == {"simple_python": 3}
    assert {c: len(ids) for c, ids in found.ids["octupus-FC"].items()} == {
        "simple_python": 20,
        "multi_turn_base": 1,
        "memory_kv": 1,
    }
    assert found.total == 25


def test_a_sample_of_multi_turn_keeps_to_what_fits(data: BfclData) -> None:
    # One turn at worst: 100 + 21 * (100 + 96) = 4216 tokens; two turns: 8332.
    found = made(data, {"multi_turn_base": 3})
    assert found.ids["octupus-FC"] == {"multi_turn_base": ["multi_turn_base_0"]}
    assert found.left_out == {"multi_turn_base: 2 of 3": "only 1 of 4 fit serve.max_model_len 8192 at worst"}


def test_what_cannot_run_is_left_out_with_its_reason(data: BfclData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SERPAPI_API_KEY", raising=False)
    found = made(data, {"agentic": None})
    assert set(found.left_out) == {"memory_vector", "web_search_base", "web_search_no_snippet"}
    assert "memory_vector" not in found.ids["octupus-FC"] and "SerpAPI" in found.left_out["web_search_base"]
    with pytest.raises(ConfigError, match="build on each other"):
        made(data, {"memory_kv": 3})
