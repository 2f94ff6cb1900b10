"""Golden rows of every published source, in its published shape, and the parser of ToolACE's calls.

The rows in ``tests/golden/data_sources`` are the project's own, made to be as nasty as the published ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_recipes.check import check
from octupus.config import SourceSection
from octupus.data.literals import calls_of, value_of
from octupus.data.sources import open_source
from octupus.data.store import as_json
from octupus.errors import ConfigError, DataError
from octupus.runs import Run
from tests.support.recipes import write_jsonl
from tests.support.tiny import tiny_wire

GOLDEN = Path(__file__).resolve().parents[1] / "golden/data_sources"
ROWS = [
    (path.stem, number, json.loads(line))
    for path in sorted(GOLDEN.glob("*.jsonl"))
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines())
]


def source(name: str, path: Path, **options: Any) -> Any:
    return open_source(SourceSection(name=name, path=str(path), options=options), Run(path))


@pytest.mark.parametrize(("name", "number", "case"), ROWS, ids=[f"{name}-{number}" for name, number, _ in ROWS])
def test_golden_rows_convert_exactly(name: str, number: int, case: dict[str, Any], tmp_path: Path) -> None:
    if "refused" in case:
        with pytest.raises(DataError) as error:
            check(source(name, tmp_path).conversation("0", case["row"]))
        assert error.value.reason == case["refused"]
        return
    conversation = source(name, tmp_path).conversation("0", case["row"])
    check(conversation)
    assert json.loads(as_json(conversation)) == case["expected"]
    assert any(tiny_wire().render(conversation).mask), "what passes the checks can be trained on"


@pytest.mark.parametrize("name", ["fc_zh_hard", "hermes_fc", "openhermes", "toolace", "wildchat"])
def test_every_source_has_eight_golden_rows(name: str) -> None:
    assert sum(found == name for found, _, _ in ROWS) >= 8


def test_a_config_reads_its_own_file(tmp_path: Path) -> None:
    for number, file in enumerate(("func-calling-singleturn", "func-calling", "glaive-function-calling-5k")):
        (tmp_path / f"{file}.json").write_text(json.dumps([{"id": f"r{number}"}]))
    found = [row_id for row_id, _ in source("hermes_fc", tmp_path, config="glaive_func_calling").rows()]
    assert found == ["r2"]
    assert [i for i, _ in source("hermes_fc", tmp_path / "func-calling.json", config="func_calling").rows()] == ["r1"]
    with pytest.raises(ConfigError, match=r"no config 'json'; choose one of: func_calling_singleturn"):
        list(source("hermes_fc", tmp_path, config="json").rows())
    (tmp_path / "glaive-function-calling-5k.json").unlink()
    with pytest.raises(DataError, match=r"holds no glaive-function-calling-5k.json"):
        list(source("hermes_fc", tmp_path, config="glaive_func_calling").rows())


def test_wildchat_passes_over_other_languages_toxic_and_redacted_rows(tmp_path: Path) -> None:
    turn = {"role": "user", "content": "x", "toxic": False, "redacted": False}
    row = {"conversation": [turn], "language": "English", "toxic": False, "redacted": False}
    rows = [
        {**row, "id": "good"},
        {**row, "id": "zh", "language": "Chinese"},
        {**row, "id": "toxic", "toxic": True},
        {**row, "id": "redacted", "conversation": [{**turn, "redacted": True}]},
    ]
    write_jsonl(tmp_path / "train.jsonl", rows)
    assert [i for i, _ in source("wildchat", tmp_path, language="English").rows()] == ["good"]
    assert [i for i, _ in source("wildchat", tmp_path, language="Chinese", variant="1M").rows()] == ["zh"]
    split = tmp_path / "splits"
    write_jsonl(split / "Chinese-00000.jsonl", [{"conversation": [turn], "id": "split"}])
    write_jsonl(split / "English-00000.jsonl", [{"conversation": [turn], "id": "other"}])
    assert [i for i, _ in source("wildchat", split, language="Chinese").rows()] == ["split"]
    with pytest.raises(ConfigError, match=r"no variant 'v9'; choose one of: dedup, 1M, nontoxic"):
        assert source("wildchat", tmp_path, variant="v9").licence


TEXTS = st.text(alphabet=st.characters(codec="utf-8"), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(-1e6, 1e6, allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
NAMES = st.text(alphabet="abcXYZ _.-/[]'\"0123", min_size=1, max_size=12).map(str.strip).filter(bool)
KEYS = st.from_regex(r"[A-Za-z_$][A-Za-z0-9_$-]{0,8}", fullmatch=True)
CALLS = st.lists(st.tuples(NAMES, st.dictionaries(KEYS, VALUES, max_size=3)), min_size=1, max_size=3)


@settings(max_examples=120, deadline=None)
@given(calls=CALLS, python=st.booleans())
def test_calls_are_read_back_whatever_they_hold(calls: list[tuple[str, dict[str, Any]]], python: bool) -> None:
    def written(value: Any) -> str:
        return repr(value) if python else json.dumps(value, ensure_ascii=False)

    shown = [f"{name}({', '.join(f'{k}={written(v)}' for k, v in arguments.items())})" for name, arguments in calls]
    assert calls_of(f"[{', '.join(shown)}]", {name for name, _ in calls}) == calls


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[f(]",
        "[f()",
        "[f()] more",
        "[f(a=)]",
        "[f(a=1 b=2)]",
        "[f(a=1, a=2)]",
        "[f(a=x)]",
        "[(a=1)]",
        '[f(a="x)]',
    ],
)
def test_what_is_no_call_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(DataError, match=r"calls that cannot be read: at \d+: .* expected"):
        calls_of(text, ())


def test_deep_nesting_and_code_are_refused() -> None:
    with pytest.raises(DataError, match=r"nested too deep"):
        calls_of(f"[f(a={'[' * 5000})]", ())
    for text in ('[f(a="\\U00110000")]', f"[f(a={'9' * 5000})]"):
        with pytest.raises(DataError, match=r"calls that cannot be read"):
            calls_of(text, ())
    for text in ("__import__('os').system('true')", "{1, 2}", "[" * 9000, "1 +"):
        with pytest.raises(DataError, match=r"neither JSON nor a Python literal"):
            value_of(text, "a call")
