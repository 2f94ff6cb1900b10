"""Reading rows: every kind of file, in pieces, and what is damaged is named with file, row and remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from octupus.config import SourceSection
from octupus.data import files
from octupus.data.files import content_hash, records
from octupus.data.sources import open_source
from octupus.errors import ConfigError, DataError
from octupus.runs import Run

ROWS = [{"a": i, "text": 'héllo ] } , 世界 \\" ' * i} for i in range(50)]


@pytest.mark.parametrize("chunk", [7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 1])
def test_json_arrays_are_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
) -> None:
    monkeypatch.setattr(files, "_CHUNK", chunk)
    path = tmp_path / "x.json"
    path.write_text("\ufeff\n " + json.dumps(ROWS, ensure_ascii=False, indent=indent) + " \n", encoding="utf-8")
    assert list(records(path)) == ROWS


def test_jsonl_parquet_and_folders(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS[:20])
    (tmp_path / "b.jsonl").write_text(lines + "\n", encoding="utf-8")
    (tmp_path / "a.json").write_text(lines, encoding="utf-8")  # jsonl in truth
    (tmp_path / "sub").mkdir()
    pq.write_table(pa.Table.from_pylist(ROWS[20:]), tmp_path / "sub/c.parquet")
    assert list(records(tmp_path)) == ROWS[:20] + ROWS
    before = content_hash(tmp_path)
    (tmp_path / "b.jsonl").write_text(lines, encoding="utf-8")
    assert content_hash(tmp_path) != before


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.jsonl", b'{"a": 1}\n{"a": \n', r"x.jsonl row 1: not JSON .*fetch or write it again"),
        ("x.jsonl", b'{"a": 1}\n[1]\n', "x.jsonl row 1: a row must be an object, found list"),
        ("x.jsonl", b'{"a": "\xff"}\n', "x.jsonl row 0: not JSON .*utf-8"),
        ("x.json", b'[{"a": 1}, {"a": 2', "x.json row 1: not JSON .*cut"),
        ("x.json", b'[{"a": 1}, {"a": "\xff"}]', "x.json row .: not UTF-8"),
        ("x.json", b'[{"a": 1}]\n[{"a": 2}]', "x.json row 1: more behind the end of the array"),
        ("x.json", b'[{"a": ' + b"9" * 5000 + b"}]", "x.json row 0: not JSON .*digits"),
        ("x.parquet", b"PAR1 and then nothing", "x.parquet row 0: not parquet .*cut"),
        ("x.csv", b"a,b\n", "cannot read .csv; give .*parquet"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        list(records(path))


def test_truncated_parquet_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"x.parquet row 0: not parquet"):
        list(records(path))


def test_missing_files_and_unknown_sources(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist; name a file or folder"):
        list(records(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"holds no .parquet"):
        list(records(tmp_path))
    run = Run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"no data source 'nothing'; choose one of: .*teacher_answers"):
        open_source(SourceSection(name="nothing"), run)
    with pytest.raises(ConfigError, match=r"options do not fit: .*'colour'"):
        open_source(SourceSection(name="openai_format", options={"colour": 1}), run)
    with pytest.raises(DataError, match=r"run `make teacher` first"):
        list(open_source(SourceSection(name="teacher_answers"), run).rows())
    with pytest.raises(DataError, match=r"give it a `path`"):
        list(open_source(SourceSection(name="openai_format"), run).rows())


def test_rows_have_ids_and_limits(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": "first"}\n{"n": 1}\n{"id": 7}\n{"n": 3}\n')
    source = open_source(SourceSection(name="openai_format", path=str(path), limit=3), Run(tmp_path))
    assert [row_id for row_id, _ in source.rows()] == ["first", "1", "7"]
    assert source.label == "openai_format(x.jsonl)"
