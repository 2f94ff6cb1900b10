"""Exact means equal as JSON, in any order, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.heldout import exact, read_items, summarise
from octupus.errors import DataError


def call(name: str, arguments: str) -> dict[str, str]:
    return {"name": name, "arguments": arguments}


WANTED = {"tool_calls": [{"function": call("a", '{"x": 1, "y": [true, "é"]}')}, {"function": call("b", "{}")}]}


@pytest.mark.parametrize(
    ("calls", "right"),
    [
        ([call("b", "{}"), call("a", '{"y": [true, "\\u00e9"], "x": 1.0}')], True),
        ([call("a", '{"x": 1, "y": [true, "é"]}')], False),
        ([call("a", '{"x": 1, "y": [1, "é"]}'), call("b", "{}")], False),
        ([call("a", '{"x": "1", "y": [true, "é"]}'), call("b", "{}")], False),
        ([call("a", '{"x": 1, "y": [true, "é"]}'), call("b", "{}"), call("b", "{}")], False),
        ([call("a", '{"x": 1'), call("b", "{}")], False),
        ([], False),
    ],
)
def test_exact(calls: list[dict[str, str]], right: bool) -> None:
    assert exact(WANTED, calls) is right


def test_no_call_is_right_only_where_none_is_wanted() -> None:
    assert exact({"content": "hello"}, []) and not exact({"content": "hello"}, [call("b", "{}")])


def test_every_assistant_turn_is_an_item(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "a", "parameters": {"type": "object"}}}
    row = {
        "id": "x",
        "split": "seen",
        "kind": "single",
        "tools": [{"raw": tool}],
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "tool_calls": [{"name": "a", "arguments": {"k": "值"}}]},
            {"role": "tool", "content": "r", "tool_call_id": "call_0"},
            {"role": "assistant", "content": "done"},
        ],
    }
    path = tmp_path / "heldout.jsonl"
    path.write_text(f"{json.dumps(row)}\n{json.dumps(row)}\n")
    first, second = read_items(path, 1)
    assert first["wanted"]["tool_calls"][0]["function"] == call("a", '{"k": "值"}')
    assert first["messages"] == [{"role": "user", "content": "q"}] and first["tools"] == [tool]
    assert [m["role"] for m in second["messages"]] == ["user", "assistant", "tool"]
    with pytest.raises(DataError, match=r"heldout\.jsonl row 0.*kind"):
        path.write_text('{"messages": [], "tools": [], "split": "seen"}\n')
        list(read_items(path, None))
    with pytest.raises(DataError, match="make data"):
        list(read_items(tmp_path / "absent.jsonl", None))


def test_errors_count_as_wrong() -> None:
    common = {"id": "0:1", "split": "seen", "kind": "single", "tools": [], "wanted": WANTED}
    rows = [{**common, "error": "HTTP 500"}, {**common, "calls": [], "exact": True, "finish_reason": "stop"}]
    found = summarise(rows)
    assert found["exact"]["seen"]["n"] == 2 and found["exact"]["seen"]["correct"] == 1 and found["errors"] == 1
