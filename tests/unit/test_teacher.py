"""The teacher stage with scripted engines: exactly once, whatever happens in between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from octupus.config import Recipe
from octupus.data.appended import AppendedFile, appended, opened, sealed
from octupus.errors import ConfigError, DataError, JobError
from octupus.runs import Run
from tests.support import teachers
from tests.support.recipes import recipe, write_jsonl
from tests.support.teachers import answers, teach

ECHO = "tests.support.teachers:echo"


def prompts(path: Path, *conversations: list[str]) -> str:
    """A file of user turns; answers in between stand for what the published set says."""
    rows = []
    for users in conversations:
        messages = []
        for text in users:
            messages += [{"role": "user", "content": text}, {"role": "assistant", "content": "old answer"}]
        rows.append({"messages": messages})
    return str(write_jsonl(path, rows))


def suite(path: str, model: str = ECHO, **teacher: Any) -> Recipe:
    sources = [{"name": "openai_format", "path": path}]
    return recipe(teacher={"engine": "scripted", "model": model, "prompts": sources, **teacher})


def test_conversations_are_answered_turn_by_turn_and_say_who_answered(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    done = teach(suite(prompts(tmp_path / "p.jsonl", ["hello", "and then?"], ["你好"])), run)
    assert done == {"prompts": 2, "answers": 2, "rejects": {}, "not_prompts": {}, "tokens": 0}
    two, one = sorted(answers(run).values(), key=lambda row: -len(row["messages"]))
    assert [m["content"] for m in two["messages"]] == ["hello", "turn 1: hello", "and then?", "turn 3: and then?"]
    assert one["messages"][1] == {"role": "assistant", "content": "turn 1: 你好"}
    assert one["teacher"] == {"engine": "scripted", "model": ECHO}
    progress = run.stage("teacher").progress()
    assert progress is not None and (progress.done, progress.total) == (2, 2)


def test_killed_at_any_moment_every_id_is_answered_exactly_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = prompts(tmp_path / "p.jsonl", *([f"question {i}"] * (1 + i % 3) for i in range(40)))
    calm = Run(tmp_path / "calm")
    teach(suite(path, "tests.support.teachers:mortal", shards=3), calm) if _live(10**6) else None
    run = Run(tmp_path / "run")
    monkeypatch.setattr("octupus.teacher.scripted.ScriptedEngine.capacity", 4)
    for lives in (0, 1, 2, 5, 9, 17, 30):
        _live(lives)
        with pytest.raises(teachers.Killed):
            teach(suite(path, "tests.support.teachers:mortal", shards=3), run)
    _live(10**6)
    teach(suite(path, "tests.support.teachers:mortal", shards=3), run)
    for shard in range(3):
        name = f"teacher/answers/{shard:05d}.jsonl"
        assert (run.path / name).read_bytes() == (calm.path / name).read_bytes()
    assert len(answers(run)) == 40


def _live(answers_left: int) -> bool:
    teachers.answers_left = answers_left
    return True


def test_damaged_rows_are_asked_again_and_only_those(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    path = prompts(tmp_path / "p.jsonl", *([f"question {i}"] for i in range(20)))
    teach(suite(path, "tests.support.teachers:mortal"), run) if _live(20) else None
    file = run.path / "teacher/answers/00000.jsonl"
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    flipped = bytearray(lines[7])
    flipped[20] ^= 1
    file.write_bytes(b"".join([*lines[:7], bytes(flipped), *lines[8:19], lines[19][:-30]]))
    _live(2)
    teach(suite(path, "tests.support.teachers:mortal"), run)
    assert file.read_bytes() == whole and teachers.answers_left == 0


def test_another_sampling_makes_other_ids_and_never_mixes(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    path = prompts(tmp_path / "p.jsonl", ["a"], ["b"])
    teach(suite(path), run)
    cold = answers(run)
    teach(suite(path, sampling={"temperature": 0.1}), run)
    assert not cold.keys() & answers(run).keys() and len(answers(run)) == 2
    prompts(tmp_path / "p.jsonl", ["a"], ["b"], ["c"])
    teach(suite(path), run)  # the first sampling again, one prompt more: two answers are taken over
    assert cold.items() <= answers(run).items() and len(answers(run)) == 3


def test_gates_keep_rejects_apart_and_count_them(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    path = prompts(tmp_path / "p.jsonl", ["be empty"], ["leak"], ["parrot"], ["is it?"])
    done = teach(suite(path, "tests.support.teachers:naughty"), run)
    assert done["answers"] == 1
    assert done["rejects"] == {"empty": 1, "leaked template token": 1, "repeats the prompt": 1}
    assert teach(suite(path, "tests.support.teachers:naughty"), run) == done
    with pytest.raises(DataError, match=r"not one usable answer.*empty"):
        teach(suite(prompts(tmp_path / "q.jsonl", ["be empty"]), "tests.support.teachers:naughty"), Run(tmp_path / "r"))


def test_what_is_no_plain_chat_is_no_prompt(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    tool = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    good = {"messages": [{"role": "user", "content": "hello"}]}
    write_jsonl(path, [good, good, {"messages": [{"role": "user", "content": "x"}, tool]}, good])
    with pytest.raises(DataError, match=r"1 of 4 rows are no prompts, 20% allowed.*row 2.*calls without tools"):
        teach(suite(str(path)), Run(tmp_path / "run"))
    write_jsonl(path, [good, good, good, good, {"messages": [{"role": "user", "content": "x"}, tool]}])
    done = teach(suite(str(path)), Run(tmp_path / "run"))
    assert done["prompts"] == 1
    assert done["not_prompts"] == {
        "the same prompt twice": 3,
        "calls without tools": 1,
    }


def test_bad_recipes_get_a_sentence(tmp_path: Path) -> None:
    path = prompts(tmp_path / "p.jsonl", ["a"])
    for section, said in (
        ({"engine": "scripted", "model": "no.such:thing"}, "no module no"),
        ({"engine": "scripted", "model": "tests.support.teachers:nobody"}, "no function 'nobody'"),
        ({"engine": "scripted"}, "teacher.model is not set"),
        ({"engine": "scripted", "model": ECHO, "prompts": []}, "teacher.prompts names no source"),
        ({"engine": "openai", "model": "m"}, "base_url"),
        ({"engine": "scripted", "model": ECHO, "prompts": [{"name": "nothing"}]}, "choose one of:.*openai_format"),
    ):
        value = {"prompts": [{"name": "openai_format", "path": path}], **section}
        with pytest.raises(ConfigError, match=said):
            teach(recipe(teacher=value), Run(tmp_path / "run"))


def test_rows_carry_their_checksum(tmp_path: Path) -> None:
    row = {"id": "1", "messages": [{"content": 'a "checksum": "b" 你好'}]}
    assert opened(sealed(row)) == row
    assert opened(sealed(row)[:-1]) is None and opened(b"\xff\n") is None
    file = AppendedFile(tmp_path / "a.jsonl")
    file.append({"id": "2"})
    file.append(row)
    file.close()
    assert [r["id"] for r in appended(tmp_path)] == ["2", "1"]
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[1])["messages"] == row["messages"]


def test_full_disk_is_a_sentence() -> None:
    with pytest.raises(DataError, match=r"/dev/full.*No space left.*same command"):
        AppendedFile(Path("/dev/full")).append({"id": "1"})


def test_endpoint_that_is_down_says_so(tmp_path: Path) -> None:
    path = prompts(tmp_path / "p.jsonl", ["a"])
    value = {"engine": "openai", "model": "m", "engine_args": {"base_url": "http://127.0.0.1:9/v1", "timeout_s": 1}}
    with pytest.raises(JobError, match=r"chat/completions failed 3 times.*same command"):
        teach(recipe(teacher={**value, "prompts": [{"name": "openai_format", "path": path}]}), Run(tmp_path / "run"))
