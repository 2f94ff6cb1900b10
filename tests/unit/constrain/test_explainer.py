"""``python -m octupus.constrain`` says what is wrong with an answer, and where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from octupus.constrain.__main__ import main
from tests.support.tiny import tiny_folder
from tests.unit.constrain.walk import TOOLS


def explained(tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: Any, tools: Any = TOOLS) -> tuple[int, str]:
    (tmp_path / "tools.json").write_text(json.dumps(tools), encoding="utf-8")
    (tmp_path / "answer.json").write_text(json.dumps(answer), encoding="utf-8")
    files = ["--tools", str(tmp_path / "tools.json"), "--answer", str(tmp_path / "answer.json")]
    code = main(["--tokenizer", str(tiny_folder()), *files])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_a_legal_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = {"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris", "days": 3}'}}
    code, text = explained(tmp_path, capsys, {"content": "Hello.", "tool_calls": [call]})
    assert code == 0 and "forced" in text and "get_weather: lm-format-enforcer" in text and "REFUSED" not in text


def test_a_refusal_names_pointer_keyword_and_alternatives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = explained(
        tmp_path, capsys, {"tool_calls": [{"name": "get_weather", "arguments": {"city": "x", "days": 2.5}}]}
    )
    assert code == 1 and "REFUSED; allowed here: '" in text and "/days" in text and "'type'" in text


def test_an_undeclared_argument_is_named_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = {"name": "get_weather", "arguments": {"city": "x", "zip/code": 1}}
    code, text = explained(tmp_path, capsys, {"tool_calls": [call]})
    assert code == 1 and "/zip~1code: not declared (keyword 'additionalProperties')" in text


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {"tool_calls": [{"name": "get_weather", "arguments": "no json"}]},
        *({"tool_calls": calls} for calls in ([{}], ["x"], [None], {"a": 1}, [{"function": 1}])),
    ],
)
def test_bad_input_gets_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: Any) -> None:
    code, text = explained(tmp_path, capsys, answer)
    assert code == 2 and text.strip() and "Traceback" not in text


def test_what_is_nested_without_end_gets_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep: Any = 1
    for _ in range(900):
        deep = [deep]
    code, text = explained(tmp_path, capsys, {"tool_calls": [{"name": "get_weather", "arguments": {"city": deep}}]})
    assert code in (1, 2) and "Traceback" not in text and text.strip()
    (tmp_path / "deep.json").write_text("[" * 100_000)
    files = ["--tools", str(tmp_path / "tools.json"), "--answer", str(tmp_path / "deep.json")]
    assert main(["--tokenizer", str(tiny_folder()), *files]) == 2
    assert "deep.json: nested too deeply" in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), "\ud800"])
def test_a_tool_with_what_json_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str], value: Any) -> None:
    tool = {"name": "f", "parameters": {"type": "object", "properties": {"x": {"const": value}}}}
    code, text = explained(tmp_path, capsys, {"content": "x"}, [tool])
    assert code in (1, 2) and "Traceback" not in text and text.strip()


def test_a_schema_that_cannot_be_enforced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool = {"name": "f", "parameters": {"type": "array", "uniqueItems": True}}
    code, text = explained(tmp_path, capsys, {"content": "x"}, [tool])
    assert code == 1 and "no value satisfies" in text
