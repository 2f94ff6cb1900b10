"""What the stock harness counts as right and we do not; what a kill may leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval.bfcl import set_aside_other_models
from eval.harness import mend
from eval.scores import judge_entry, read_results, score_model

SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
ERROR = "Error during inference: Error code: 500"


def reply(
    *calls: tuple[str, Any],
    finish: str = "tool_calls",
    incomplete: bool = False,
    usage: Any = None,
    seconds: float = 0.5,
) -> dict[str, Any]:
    noted = [
        {
            "name": n,
            "arguments": a,
            "incomplete": incomplete,
            "offered": n == "f",
            "parameters": SCHEMA if n == "f" else None,
        }
        for n, a in calls
    ]
    return {"finish_reason": finish, "seconds": seconds, "usage": usage, "calls": noted}


def row(result: Any, *replies: dict[str, Any], id: str = "irrelevance_1") -> dict[str, Any]:
    return {"id": id, "result": result, "replies": list(replies)}


@pytest.mark.parametrize(
    ("category", "result", "kind"),
    [
        ("irrelevance", row("no tool fits", reply()), "correct"),
        ("irrelevance", row(ERROR), "server error"),
        ("irrelevance", row([{"f": "{"}], reply(("f", "{"))), "illegal call"),
        ("irrelevance", row([{"f": "null"}], reply(("f", "null"))), "illegal call"),
        ("irrelevance", row([{"f": "{"}], reply(("f", "{"), finish="length")), "cut call"),
        ("irrelevance", row([{"f": "{"}], reply(("f", "{"), finish="length", incomplete=True)), "cut call"),
        ("multi_turn_base", row([[[{"g": "{}"}]]], reply(("g", "{}"))), "illegal call"),
        ("live_multiple", row([{"f": '{"x": "1"}'}], reply(("f", '{"x": "1"}'))), "correct"),
    ],
)
def test_the_harness_says_right(category: str, result: dict[str, Any], kind: str) -> None:
    entry = judge_entry("m", category, result, None)
    assert entry.harness and entry.kind == kind and entry.correct == (kind == "correct")


def failure(label: str, **more: Any) -> dict[str, Any]:
    return {"error": ["why"], "error_type": label, "possible_answer": [{"f": {"x": [1]}}], **more}


@pytest.mark.parametrize(
    ("category", "label", "calls", "kind"),
    [
        ("irrelevance", "irrelevance_error:decoder_success", [("f", '{"x": 1}')], "extra call"),
        ("live_relevance", "relevance_error:decoder_failed", [], "missing call"),
        ("simple_python", "ast_decoder:decoder_failed", [], "missing call"),
        ("simple_python", "value_error:others", [("f", '{"x": 2}')], "wrong argument"),
        ("simple_python", "simple_function_checker:wrong_count", [("f", '{"x": 1}')] * 2, "extra call"),
        ("parallel", "parallel_function_checker_no_order:wrong_count", [("f", '{"x": 1}')], "wrong argument"),
        ("multi_turn_base", "multi_turn:force_terminated", [("f", '{"x": 1}')], "too many steps"),
        ("multi_turn_base", "multi_turn:instance_state_mismatch", [("f", '{"x": 1}')], "wrong end state"),
        ("memory_kv", "agentic:answer_not_found", [], "wrong answer"),
    ],
)
def test_kinds_of_error(category: str, label: str, calls: list[tuple[str, str]], kind: str) -> None:
    said = (
        failure(label) if not category.startswith("multi") else {"error": {"error_type": label, "error_message": "why"}}
    )
    entry = judge_entry("m", category, row([], reply(*calls)), said)
    assert (entry.kind, entry.detail) == (kind, "why") and not entry.harness


def lay(root: Path, category: str, rows: list[dict[str, Any]], failures: list[dict[str, Any]]) -> None:
    for kind, lines in (("result", rows), ("score", [{"accuracy": 0}, *failures])):
        folder = root / kind / "m" / "non_live"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"BFCL_v4_{category}_{kind}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_figures_of_a_category(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 7}
    rows = [
        row([{"f": '{"x": 1}'}], reply(("f", '{"x": 1}'), usage=usage), id="simple_python_0"),
        row([{"f": '{"x": 2}'}], reply(("f", '{"x": 2}'), usage=usage, seconds=1.5), id="simple_python_1"),
        row("no", reply(finish="stop", seconds=1.0), id="simple_python_2"),
        row(ERROR, id="simple_python_3"),
        row([], reply(), id="simple_python_99"),
    ]
    wrong = [{"id": f"simple_python_{i}", **failure("value_error:others")} for i in (1, 2, 3)]
    lay(tmp_path, "simple_python", rows, wrong)
    scores, entries = score_model(tmp_path, "m", {"simple_python": [f"simple_python_{i}" for i in range(5)]})
    figures = scores["categories"]["simple_python"]
    picked = {
        k: figures[k] for k in ("n", "asked", "of", "correct", "harness_correct", "errors", "tokens_in", "tokens_out")
    }
    assert picked == {
        "n": 4,
        "asked": 5,
        "of": 400,
        "correct": 1,
        "harness_correct": 1,
        "errors": 1,
        "tokens_in": 200,
        "tokens_out": 14,
    }
    assert figures["call_rate"] == 0.5 and figures["accuracy"] == 0.25
    assert (figures["requests"], figures["latency_mean"]) == (3, 1.0), "an entry without a reply has no latency"
    assert figures["latency_p95"] == pytest.approx(1.45), "between the slowest two, never above the slowest"
    assert figures["kinds"] == {"correct": 1, "wrong argument": 1, "missing call": 1, "server error": 1}
    assert len(entries) == 4 and scores["errors"] == 1 and scores["legality"]["legal"] == 2
    assert scores["summaries"]["Overall v3"]["covered"] < 0.03


def test_errors_and_torn_lines_are_asked_again_and_nothing_else(tmp_path: Path) -> None:
    good = [row("a", id="simple_python_0"), row("b", id="simple_python_1")]
    lay(tmp_path, "simple_python", [good[0], row(ERROR, id="simple_python_2"), good[1]], [])
    lay(tmp_path, "irrelevance", [row(ERROR)], [])
    torn = tmp_path / "result/m/non_live/BFCL_v4_simple_python_result.json"
    whole = torn.read_bytes()
    torn.write_bytes(whole + b'{"id": "simple_python_3", "result": "half')
    assert set(read_results(tmp_path, "m")) == {
        "simple_python_0",
        "simple_python_1",
        "simple_python_2",
        "irrelevance_1",
    }
    mend(tmp_path, "m", ["simple_python", "irrelevance"])
    assert [json.loads(line) for line in torn.read_text().splitlines()] == good
    assert not (torn.parent / "BFCL_v4_irrelevance_result.json").exists(), (
        "the harness divides by an empty file's length"
    )


def test_another_model_starts_afresh(tmp_path: Path) -> None:
    lay(tmp_path, "simple_python", [row("a", id="simple_python_0")], [])
    set_aside_other_models(tmp_path, {"subject": "first"})
    set_aside_other_models(tmp_path, {"subject": "first"})
    assert len(read_results(tmp_path, "m")) == 1
    set_aside_other_models(tmp_path, {"subject": "second"})
    assert read_results(tmp_path, "m") == {} and (tmp_path / "result-of-first/m").is_dir()
