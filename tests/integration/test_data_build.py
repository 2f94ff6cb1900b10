"""The whole data stage over files: what trains, what is left out and why, bytes, kills."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data_recipes import preview
from data_recipes.build import main as build_main
from data_recipes.build import run as build
from octupus.config import Recipe
from octupus.data import Shards
from octupus.errors import ConfigError, DataError, JobError
from octupus.wire import Conversation
from tests.support.disk import no_file_beyond
from tests.support.recipes import call, chat, recipe, run_folder, write_jsonl
from tests.support.tiny import tiny_tokenizer, tiny_wire

ROOT = Path(__file__).resolve().parents[2]


def source(path: Path, **more: Any) -> dict[str, Any]:
    return {"name": "openai_format", "path": str(path), **more}


def suite(stage1: list[dict[str, Any]], **more: Any) -> Recipe:
    data = {"decontaminate": False, "near_duplicates": None, "stage1": {"context": 512, "sources": stage1}, **more}
    return recipe(data=data)


def talks(n: int, first: int = 0) -> list[dict[str, Any]]:
    words = "the quick brown fox jumps over the lazy dog 你好 "
    return [
        call(f"weather in town {i}?", {"city": f"town {i}", "days": i % 9})
        if i % 3 == 0
        else chat(f"question {i}?", words * (1 + i * 7 % 11))
        for i in range(first, first + n)
    ]


def documents(shards: Shards) -> Counter[tuple[tuple[int, ...], tuple[bool, ...]]]:
    return Counter((tuple(i.tolist()), tuple(m.tolist())) for row in shards for i, m in row.documents())


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_packed_row_gives_back_exactly_the_rendered_conversations(tmp_path: Path) -> None:
    rows, wire = talks(120), tiny_wire()
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    run = run_folder(tmp_path / "run")
    outputs = build(
        suite([source(path, epochs=2)], stage2={"context": 300, "sources": [source(path, epochs=0.25)]}), run
    )
    from data_recipes.sources.openai_format import to_conversation

    rendered = [wire.render(to_conversation(row)) for row in rows]
    wanted = Counter((tuple(r.ids), tuple(r.mask)) for r in rendered if len(r.ids) <= 512)
    shards = Shards(run.path / "data/stage1")
    assert documents(shards) == Counter({key: 2 * n for key, n in wanted.items()})
    assert all(len(row.ids) <= 512 and row.mask.any() for row in shards)
    for row in shards:
        inside = [tuple(ids.tolist()) for ids, _ in row.documents()]
        assert len(set(inside)) == len(inside), "no row holds a document twice"
    manifest = shards.manifest
    assert manifest.fingerprint == wire.fingerprint and manifest.context == 512
    assert outputs["stage1"]["documents"] == 2 * len(wanted) and manifest.packing_efficiency > 0.9
    some = documents(Shards(run.path / "data/stage2"))
    assert some.total() == 30 - sum(
        d["count"] for d in Shards(run.path / "data/stage2").manifest.details["dropped"].values()
    )
    assert not (run.path / "data/work").exists() or not any((run.path / "data/work").iterdir())


def test_rejects_are_counted_by_reason_with_rows(tmp_path: Path) -> None:
    rows = talks(40)
    rows[3] = call("x", {"city": 3})
    rows[5] = call("x", {"city": 4})
    rows[8] = {"messages": [{"role": "robot", "content": "x"}]}
    rows[11] = rows[10]
    rows[13] = chat("long?", "x" * 5000)
    rows[17] = chat("\ud800", "lone surrogate")
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = run_folder(tmp_path / "run")
    build(suite([source(path)]), run)
    report = json.loads((run.path / "data/report.json").read_text())
    (facts,) = report["sources"]
    assert (facts["read"], facts["kept"]) == (40, 35)
    broken = facts["rejected"]["arguments break the schema"]
    assert broken["count"] == 2 and [row for row, _ in broken["examples"]] == ["3", "5"]
    assert facts["rejected"]["no legal conversation"]["examples"][0][0] == "8"
    assert "not well-formed text or JSON" in facts["rejected"]
    assert facts["removed"] == {"exact duplicate": {"count": 1, "examples": [["11", "exact duplicate"]]}}
    assert report["stage1"]["details"]["dropped"]["longer than the context"]["count"] == 1
    assert report["stage1"]["details"]["sources"][0]["documents"] == 34


def test_rows_that_no_file_can_carry_are_rejected_and_shown_escaped(tmp_path: Path) -> None:
    odd: list[dict[str, Any]] = [
        {**chat("kept", "a"), "id": "\ud800", "split": "\ud800", "kind": float("nan")},
        {"id": "rejected\ud800", "messages": []},
        {"messages": [chat("x", "y")["messages"][0], call("x", {"city": 1})["messages"][1]], "tools": []},
        call("x", '{"\ud800\x1b[2J' + "x" * 100_000),
    ]
    odd[2]["messages"][1]["tool_calls"][0]["function"]["name"] = "\ud800"
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*talks(20), *odd]))
    run = run_folder(tmp_path / "run")
    build(suite([source(path)]), run)
    (facts,) = json.loads((run.path / "data/report.json").read_text())["sources"]
    assert (facts["read"], facts["kept"]) == (24, 21)
    reasons = {kind: found["examples"][0] for kind, found in facts["rejected"].items()}
    assert reasons["calls a tool that was not offered"] == ["22", "calls a tool that was not offered: \\ud800"]
    assert reasons["arguments are no JSON object"][1].startswith(r'arguments are no JSON object: {"\ud800\x1b[2Jxxx')
    assert any(row == r"rejected\ud800" for row, _ in reasons.values())
    assert (
        max(len(why) for _, why in reasons.values()) < 600 and "\\ud800" in (run.path / "data/report.html").read_text()
    )


def test_a_source_above_its_rate_fails_the_build_and_says_what_broke(tmp_path: Path) -> None:
    rows = talks(20) + [call("x", {"city": i}) for i in range(10)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    run = run_folder(tmp_path / "run")
    said = (
        r"openai_format\(a.jsonl\): 33.3% of 30 rows rejected, 20.0% allowed: 10 x arguments break .*row 20.*0 is not"
    )
    with pytest.raises(DataError, match=said):
        build(suite([source(path)]), run)
    assert json.loads((run.path / "data/report.json").read_text())["sources"][0]["reject_rate"] > 0.3
    assert build(suite([source(path, max_reject_rate=0.4)]), run)["stage1"]["documents"] == 20


def test_held_out_questions_are_never_trained_on(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", talks(30))
    kept = [{**row, "split": "unseen", "kind": "single"} for row in talks(2, 6)]
    run = run_folder(tmp_path / "run")
    held = source(write_jsonl(tmp_path / "h.jsonl", kept))
    outputs = build(suite([source(path)], heldout=[held]), run)
    assert outputs["heldout"] == 2 and outputs["stage1"]["documents"] == 28
    for line in (run.path / "data/heldout.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert (row.pop("split"), row.pop("kind")) == ("unseen", "single")
        assert Conversation.model_validate(row).supervised


def test_earlier_sources_win_over_their_duplicates(tmp_path: Path) -> None:
    one = write_jsonl(tmp_path / "a.jsonl", talks(10))
    two = write_jsonl(tmp_path / "b.jsonl", talks(10, 5))
    run = run_folder(tmp_path / "run")
    assert build(suite([source(one), source(two)]), run)["stage1"]["documents"] == 15
    details = Shards(run.path / "data/stage1").manifest.details["sources"]
    assert [d["in_an_earlier_source"] for d in details] == [0, 5]


def test_two_builds_are_byte_identical_and_finished_work_is_kept(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", talks(60))
    runs = [run_folder(tmp_path / name) for name in ("one", "two")]
    for run in runs:
        build(suite([source(path, epochs=1.5)]), run)
    one, two = (tree(run.path / "data/stage1") for run in runs)
    assert one == two and set(one) == {"ids.bin", "mask.bin", "rows.bin", "starts.bin", "manifest.json"}
    before = {p: p.stat().st_mtime_ns for p in (runs[0].path / "data").rglob("*.bin")}
    build(suite([source(path, epochs=1.5)]), runs[0])
    assert before == {p: p.stat().st_mtime_ns for p in (runs[0].path / "data").rglob("*.bin")}
    write_jsonl(path, talks(61))
    build(suite([source(path, epochs=1.5)]), runs[0])
    assert (
        Shards(runs[0].path / "data/stage1").manifest.documents
        > Shards(runs[1].path / "data/stage1").manifest.documents
    )


CHILD = """
import os, signal, sys
import data_recipes.clean, octupus.data.render, octupus.data.shards
from data_recipes.build import run
from octupus.config import Recipe
from octupus.runs import Run

octupus.data.render.CHUNK = data_recipes.clean.CHUNK = 64
os.sched_getaffinity = lambda _: {0}
left = int(sys.argv[3])

def mortal(home, name):
    plain = getattr(home, name)
    def write(*arguments, **more):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*arguments, **more)
    setattr(home, name, write)

mortal(octupus.data.shards.ShardWriter, "_write")
mortal(octupus.data.store.StoreWriter, "add")
mortal(octupus.data.store.StoreWriter, "publish")
run(Recipe.model_validate_json(open(sys.argv[2]).read()), Run(sys.argv[1]))
"""


def test_killed_builds_go_on_and_end_in_the_same_bytes(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", talks(700))
    chosen = suite([source(path, epochs=1.2)], stage2={"context": 1024, "sources": [source(path)]})
    (tmp_path / "recipe.json").write_text(chosen.model_dump_json())
    calm, killed = run_folder(tmp_path / "calm"), run_folder(tmp_path / "killed")
    build(chosen, calm)
    generator = random.Random(1)
    ends = []
    for writes in (*(generator.randrange(2, 6) for _ in range(3)), -1):  # a write holds a whole chunk of rows
        command = [sys.executable, "-c", CHILD, str(killed.path), str(tmp_path / "recipe.json"), str(writes)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        ends.append(done.returncode)
    assert ends == [-signal.SIGKILL] * 3 + [0], done.stderr.decode()[-2000:]
    for name in ("stage1", "stage2"):
        assert tree(killed.path / "data" / name) == tree(calm.path / "data" / name)


def test_a_second_build_in_the_same_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, path = run_folder(tmp_path / "run"), write_jsonl(tmp_path / "a.jsonl", talks(30))
    second: list[str] = []

    def meanwhile(*_: Any) -> None:
        assert len(second) < 2, "a second build went on"
        with pytest.raises(DataError, match=r"run/data: another build is at work here; wait until it ends"):
            build(suite([source(path)]), run)
        second.append("refused")

    monkeypatch.setattr("data_recipes.build.page.publish", meanwhile)
    assert build(suite([source(path)]), run)["stage1"]["documents"] == 30
    assert second == ["refused"] * 2, "after cleaning and at the end"


def test_parallel_work_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_recipes import clean
    from octupus.data import render

    path = write_jsonl(tmp_path / "a.jsonl", talks(300))
    alone, together = run_folder(tmp_path / "alone"), run_folder(tmp_path / "together")
    build(suite([source(path)], near_duplicates=0.9), alone)
    monkeypatch.setattr(render, "CHUNK", 50)
    monkeypatch.setattr(clean, "CHUNK", 50)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    build(suite([source(path)], near_duplicates=0.9), together)
    assert tree(together.path / "data/stage1") == tree(alone.path / "data/stage1")
    key = next((alone.path / "data/clean").iterdir()).name
    assert tree(together.path / "data/clean" / key) == tree(alone.path / "data/clean" / key)


def test_near_duplicates_caps_and_changes_come_with_the_stage_that_asks(tmp_path: Path) -> None:
    long = [chat(f"first {i}?", " ".join(f"w{i}x{j}" for j in range(80))) for i in range(20)]
    copies = [chat(r["messages"][0]["content"], r["messages"][1]["content"] + " more") for r in long[:6]]
    one, two = write_jsonl(tmp_path / "a.jsonl", long), write_jsonl(tmp_path / "b.jsonl", [*copies, *talks(30)])
    balance = {"max_per_function": 5, "mask_names": 1.0, "shuffle_tools": 1.0}
    stage2 = {"context": 512, "sources": [source(one), source(two, epochs=2)], "balance": balance}
    run = run_folder(tmp_path / "run")
    build(suite([source(two)], stage2=stage2, near_duplicates=0.9), run)
    plain, changed = (Shards(run.path / "data" / name) for name in ("stage1", "stage2"))
    (alone,) = plain.manifest.details["sources"]
    assert (alone["near_duplicates"]["count"], alone["over_the_cap"], alone["documents"]) == (0, 0, 36)
    facts = changed.manifest.details["sources"][1]
    assert facts["licence"] == "as the files state" and len(facts["inputs"]["b.jsonl"]) == 64
    near = facts["near_duplicates"]
    assert near["count"] == 6 and near["examples"][0] == ["0", "openai_format(a.jsonl) row 0"]
    assert (facts["over_the_cap"], facts["documents"]) == (5, 2 * (36 - 6 - 5))
    text = [tiny_tokenizer().decode(ids.tolist()) for row in changed for ids, _ in row.documents()]
    assert not any("get_weather" in t for t in text) and sum("func_" in t for t in text) == 10
    assert len({t for t in text if "func_" in t}) == 10, "each pass has names of its own"
    assert sum(facts["languages"].values()) == sum(facts["tools"].values()) == 50 and facts["tools"]["1"] == 10
    page = (run.path / "data/report.html").read_text()
    assert page.count("<h2") == 3 and "openai_format(b.jsonl)" in page and "near duplicates" in page


def test_the_page_shows_rejects_and_lets_no_row_into_its_markup(tmp_path: Path) -> None:
    rows = [*talks(20), {"messages": [{"role": "<script>alert(1)</script>", "content": "x"}]}]
    run = run_folder(tmp_path / "run")
    build(suite([source(write_jsonl(tmp_path / "a.jsonl", rows))]), run)
    page = (run.path / "data/report.html").read_text()
    assert "<script" not in page and "row 20: no legal conversation" in page and "http" not in page
    assert "1 × no legal conversation" in page and "length in tokens" in page.lower()


def test_what_cannot_be_read_or_written_is_named_and_leaves_no_shards(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    run = run_folder(tmp_path / "run")
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps(chat("q", "a")) + '\n{"messages": [\n')
    cut = tmp_path / "cut.parquet"
    pq.write_table(pa.Table.from_pylist(talks(30)[1:3]), cut)
    cut.write_bytes(cut.read_bytes()[:-30])
    for path, said in (
        (bad, r"bad.jsonl row 1: not JSON .*fetch or write it again"),
        (cut, r"cut.parquet row 0: not parquet .*fetch or write it again"),
    ):
        with pytest.raises(DataError, match=said):
            build(suite([source(path)]), run)
        assert not (run.path / "data/stage1").exists()
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"messages": [{"role": "user", "content": NaN}]}\n')
    for path in (odd, write_jsonl(tmp_path / "empty.jsonl", [])):
        with pytest.raises(DataError, match=r"100.0% of 1 rows rejected.*not of this source|no row is left of 0"):
            build(suite([source(path)]), run)
    path = write_jsonl(tmp_path / "a.jsonl", talks(200))
    for size in (3_000, 60_000):  # while cleaning, and while packing
        with no_file_beyond(size), pytest.raises((DataError, JobError), match=r"cannot write.*free some space"):
            build(suite([source(path)]), run)
        assert not (run.path / "data/stage1/manifest.json").exists()
    calm = run_folder(tmp_path / "calm")
    build(suite([source(path)]), calm)
    build(suite([source(path)]), run)
    assert tree(run.path / "data/stage1") == tree(calm.path / "data/stage1")


def test_one_stage_alone_gives_the_bytes_that_it_has_among_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", talks(50))
    chosen = suite([source(path)], stage2={"context": 300, "sources": [source(path, epochs=0.5)]})
    whole = run_folder(tmp_path / "whole")
    build(chosen, whole)
    part = run_folder(tmp_path / "runs/test")
    monkeypatch.setenv("OCTUPUS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("data_recipes.build.load", lambda *_: chosen)
    assert build_main(["stage2", "--recipe", "test"]) == 0
    assert tree(part.path / "data/stage2") == tree(whole.path / "data/stage2")
    assert not (part.path / "data/stage1").exists() and "'documents': 25" in capsys.readouterr().out
    assert build_main(["stage1", "--run", "nowhere"]) == 2 and "does not exist" in capsys.readouterr().err


def test_decontamination_is_done_or_switched_off_but_never_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("octupus.data.decontaminate.WHERE", Path("nowhere/bfcl"))
    path = write_jsonl(tmp_path / "a.jsonl", talks(10))
    with pytest.raises(ConfigError, match=r"are not here; run `make bfcl-data`, or set data.decontaminate=false"):
        build(suite([source(path)], decontaminate=True), run_folder(tmp_path / "run"))


def test_empty_recipes_and_missing_surgery_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no source in data.stage1.sources nor"):
        build(recipe(), run_folder(tmp_path / "run"))
    with pytest.raises(DataError, match=r"no such file|does not exist"):
        build(suite([source(tmp_path / "nowhere.jsonl")]), run_folder(tmp_path / "run2"))
    path = write_jsonl(tmp_path / "a.jsonl", [chat("q", "x " * 3000)])
    with pytest.raises(DataError, match=r"no document is left"):
        build(suite([source(path)]), run_folder(tmp_path / "run3"))


def test_preview_shows_what_is_supervised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OCTUPUS_RUNS", str(tmp_path / "runs"))
    path = write_jsonl(tmp_path / "a.jsonl", [call("weather?", {"city": "Paris"})])
    chosen = suite([source(path)])
    run = run_folder(tmp_path / "runs/test")
    monkeypatch.setattr(preview, "load", lambda *_: chosen)
    spoken = '«<|FUNCTION_CALL|>get_weather<|PARAMETERS|>{"city": "Paris"}<|endoftext|>»'
    assert preview.main(["--recipe", "test"]) == 0  # from the sources
    first = capsys.readouterr().out
    assert spoken in first and "row 0" in first and "<|USER|>weather?" in first
    build(chosen, run)
    capsys.readouterr()
    assert preview.main(["--recipe", "test"]) == 0  # from the shards
    assert spoken in capsys.readouterr().out
    ids = tiny_wire().render_prompt([], ())
    assert preview.shown(tiny_tokenizer(), preview.Rendered(ids, [True] * len(ids)), True).startswith("\033[1;32m")
    assert preview.main(["--recipe", "test", "--run", "nothing"]) == 2
    assert "does not exist" in capsys.readouterr().err
