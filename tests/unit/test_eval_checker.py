"""The legality judge: what it must let pass, and what it must not."""

from __future__ import annotations

import pytest

from eval.checker import judge, schemas_of, tally

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "units": {"type": "array", "enum": ["c", "f"], "items": {"type": "string"}},
        "place": {"$ref": "https://example.invalid/place.json"},
    },
    "required": ["city"],
}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now"}},
]


def verdict(name: str, arguments: object, **more: object) -> str:
    return judge({"name": name, "arguments": arguments, **more}, schemas_of(TOOLS)).status


@pytest.mark.parametrize(
    ("name", "arguments", "status"),
    [
        ("get_weather", '{"city": "北京", "days": 3}', "legal"),
        ("get_weather", '{"city": "x", "days": 3.0}', "legal"),
        ("get_weather", '{"city": "x", "more": [1, null]}', "legal"),
        ("get_weather", '{"city": "x", "units": ["c", "f"]}', "legal"),
        ("now", "{}", "legal"),
        ("now", '{"zone": "CET"}', "breaks its schema"),
        ("get_weather", '{"city": "x", "units": ["k"]}', "breaks its schema"),
        ("get_weather", '{"days": 3}', "breaks its schema"),
        ("get_weather", '{"city": "x", "days": true}', "breaks its schema"),
        ("get_weather", '{"city": "x"', "not JSON"),
        ("get_weather", '{"city": "x", "days": NaN}', "not JSON"),
        ("get_weather", '{"city": "x", "city": "y"}', "not JSON"),
        ("get_weather", "", "not JSON"),
        ("get_weather", {"city": "x"}, "not JSON"),
        ("get_weather", '["x"]', "not an object"),
        ("get_weather", "null", "not an object"),
        ("get_wether", '{"city": "x"}', "unknown tool"),
        ("", "{}", "unknown tool"),
    ],
)
def test_verdicts(name: str, arguments: object, status: str) -> None:
    assert verdict(name, arguments) == status


def test_a_cut_call_is_neither_legal_nor_illegal() -> None:
    assert verdict("get_weather", '{"city": "x"', incomplete=True) == "cut"


def test_a_remote_reference_is_not_fetched() -> None:
    call = {"name": "get_weather", "arguments": '{"city": "x", "place": {}}'}
    found = judge(call, schemas_of(TOOLS))
    assert found.status == "breaks its schema" and "example.invalid" in found.detail


def test_tally_counts_complete_calls_apart_from_cut_ones() -> None:
    calls = [
        {"name": "now", "arguments": "{}"},
        {"name": "now", "arguments": "{", "incomplete": True},
        {"name": "now", "arguments": "{"},
        {"name": "then", "arguments": "{}"},
    ]
    counts = tally((f"entry {i}", call, judge(call, schemas_of(TOOLS))) for i, call in enumerate(calls))
    assert {k: counts[k] for k in ("calls", "complete", "legal", "illegal", "cut")} == {
        "calls": 4,
        "complete": 3,
        "legal": 1,
        "illegal": 2,
        "cut": 1,
    }
    assert counts["reasons"] == {"not JSON": 1, "unknown tool": 1}
    assert [example["where"] for example in counts["examples"]] == ["entry 2", "entry 3"]
