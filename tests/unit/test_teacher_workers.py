"""Several workers on one plan, best of several candidates, retries, and prompts with tools."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_recipes.sources import teacher_answers
from octupus.config import Recipe
from octupus.errors import ConfigError, JobError
from octupus.runs import Run
from octupus.teacher import estimate
from octupus.teacher.protocol import Answer, Candidate, Request
from octupus.teacher.run import merge, work
from tests.support.recipes import recipe, write_jsonl
from tests.support.teachers import answers, teach

ECHO = "tests.support.teachers:echo"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def suite(path: Path, model: str = ECHO, **teacher: Any) -> Recipe:
    sources = [{"name": "openai_format", "path": str(path)}]
    return recipe(teacher={"engine": "scripted", "model": model, "prompts": sources, **teacher})


def questions(path: Path, n: int) -> Path:
    return write_jsonl(path, [{"messages": [{"role": "user", "content": f"question {i}"}]} for i in range(n)])


def test_four_workers_at_once_answer_everything_once(tmp_path: Path) -> None:
    chosen = suite(questions(tmp_path / "p.jsonl", 200), shards=9, workers=4)
    calm, run = Run(tmp_path / "calm"), Run(tmp_path / "run")
    teach(chosen, calm)
    counts = list[dict[str, Any]]()
    threads = [
        threading.Thread(target=lambda i=i: counts.append(work(chosen, run, i, f"teacher/tasks/{i}"))) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(c["prompts"] for c in counts) == 200
    assert merge(chosen, run)["answers"] == len(answers(run)) == 200
    for shard in range(9):
        name = f"teacher/answers/{shard:05d}.jsonl"
        assert (run.path / name).read_bytes() == (calm.path / name).read_bytes()
    progress = [run.stage(f"teacher/tasks/{i}").progress() for i in range(4)]
    assert sum(p.total for p in progress if p and p.total) == 200
    assert not list((run.path / "teacher/parts").glob("*")) and not list((run.path / "teacher/claims").glob("*"))


def test_what_no_worker_finished_is_said_and_nothing_is_merged(tmp_path: Path) -> None:
    chosen, run = suite(questions(tmp_path / "p.jsonl", 6), shards=2), Run(tmp_path / "run")
    with pytest.raises(JobError, match="no worker has made a plan"):
        merge(chosen, run)
    teach(chosen, run)
    (run.path / "teacher/done/00001.json").unlink()
    with pytest.raises(JobError, match=r"3 of 6 prompts are not answered, in 1 of 2 shards.*same command goes on"):
        merge(chosen, run)


def test_the_merged_files_are_the_source_that_stage_1_reads(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    teach(suite(questions(tmp_path / "p.jsonl", 5)), run)
    rows = list(teacher_answers.rows(run.path / "teacher/merged"))
    said = [teacher_answers.to_conversation(row) for row in rows]
    assert sorted(c.messages[0].content for c in said) == [f"question {i}" for i in range(5)]
    assert all(c.messages[1].content == f"turn 1: {c.messages[0].content}" for c in said)
    table = pq.read_table(run.path / "teacher/merged")
    assert table.num_rows == 5 and json.loads(table["teacher"][0].as_py()) == {"engine": "scripted", "model": ECHO}
    assert "What the teacher answered" in (run.path / "teacher/report.html").read_text()


def test_the_scorer_chooses_among_those_that_pass_and_a_bad_turn_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[Request]()

    class Fake:
        capacity = 2

        def __init__(self) -> None:
            self.waiting = list[Request]()

        def submit(self, request: Request) -> None:
            asked.append(request)
            self.waiting.append(request)

        def step(self) -> list[Answer]:
            waiting, self.waiting = self.waiting, []
            texts = ("", "short one", "a much longer answer", "I cannot help with that.")
            first = [r for r in waiting if r.sampling.temperature == 0.7]
            again = [r for r in waiting if r.sampling.temperature != 0.7]
            bad = [Answer(r.id, (Candidate("", "stop", 3),)) for r in first if "stubborn" in str(r.messages)]
            good = [Answer(r.id, tuple(Candidate(t, "stop", 1) for t in texts)) for r in first]
            return (
                bad
                + [a for a in good if a.id not in {b.id for b in bad}]
                + [Answer(r.id, (Candidate("well", "stop", 2),)) for r in again]
            )

        def close(self) -> None:
            self.waiting.clear()

    monkeypatch.setattr("octupus.teacher.scripted.open_engine", lambda section: Fake())
    rows = [{"messages": [{"role": "user", "content": text}]} for text in ("hello", "stubborn")]
    retry = {"n": 4, "scorer": "tests.support.teachers:longest", "retries": 2, "retry_sampling": {"temperature": 1.0}}
    run = Run(tmp_path / "run")
    teach(suite(write_jsonl(tmp_path / "p.jsonl", rows), **retry), run)
    found = {row["messages"][0]["content"]: row for row in answers(run).values()}
    assert found["hello"]["messages"][1]["content"] == "a much longer answer" and found["hello"]["tokens"] == 4
    assert found["stubborn"]["messages"][1]["content"] == "well" and found["stubborn"]["retried"] == ["empty"]
    seeds = [r.seed for r in asked if "stubborn" in str(r.messages)]
    assert len(seeds) == 2 and seeds[0] != seeds[1] and all(r.n == 4 for r in asked)
    with pytest.raises(ConfigError, match=r"teacher\.scorer 'no:where'"):
        teach(suite(tmp_path / "p.jsonl", scorer="no:where"), Run(tmp_path / "other"))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "Rome"}'}}]}, None),
        ({"content": "Where are you?"}, None),
        ({"tool_calls": [{"function": {"name": "rm", "arguments": "{}"}}]}, "calls a tool that was not offered: rm"),
        ({"tool_calls": [{"function": {"name": "weather", "arguments": "{"}}]}, "arguments are no JSON object"),
        ({"tool_calls": [{"function": {"name": "weather", "arguments": '{"city": 5}'}}]}, "arguments break the schema"),
        ({"tool_calls": [{"function": {"name": "weather", "arguments": "{}"}}]}, "arguments break the schema"),
    ],
)
def test_only_legal_calls_are_kept(
    said: Mapping[str, Any], reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.teachers.with_tools_says", said)
    before = [
        {"role": "user", "content": "Weather in Oslo?"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]},
        {"role": "tool", "content": "rain"},
        {"role": "assistant", "content": "It rains."},
        {"role": "user", "content": "And in Rome?"},
        {"role": "assistant", "content": "the published answer"},
    ]
    good = {"messages": [{"role": "user", "content": "hello"}]}
    path = write_jsonl(tmp_path / "p.jsonl", [{"messages": before, "tools": [WEATHER]}, good])
    run = Run(tmp_path / "run")
    counts = teach(suite(path, "tests.support.teachers:with_tools"), run)
    if reason is not None:
        assert counts["rejects"] == {reason.partition(": ")[0]: 1}
        return
    row = next(r for r in teacher_answers.rows(run.path / "teacher/merged") if r["tools"])
    conversation = teacher_answers.to_conversation(row)
    assert [t.raw for t in conversation.tools] == [WEATHER]
    assert [m.role for m in conversation.messages] == ["user", "assistant", "tool", "assistant", "user", "assistant"]
    assert conversation.messages[1].tool_calls[0].arguments == {"city": "Oslo"}, "published turns stay"
    last = conversation.messages[-1]
    assert (last.content or last.tool_calls[0].arguments) in ("Where are you?", {"city": "Rome"})


def test_a_teacher_that_answers_plain_chat_gets_no_tools(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "x"}], "tools": [WEATHER]}] * 2
    path = write_jsonl(tmp_path / "p.jsonl", rows)
    told = list(estimate.lines(suite(path, tokens_per_s=100.0, workers=2, shards=2), Run(tmp_path / "run"), 8))
    assert told[0].startswith("teacher: 1 prompts") and "in 2 shards" in told[0]
    assert "GPU-hours (100 tokens/s a worker, teacher.tokens_per_s; at most 2,048 tokens a prompt)" in told[1]
    with pytest.raises(Exception, match=r"teacher\.engine: server answers both"):
        chosen = suite(path)
        plain = chosen.teacher.model_copy(update={"engine": "vllm"})
        list(estimate.lines(chosen.model_copy(update={"teacher": plain}), Run(tmp_path / "run"), 0))


def test_hours_are_reckoned_from_what_this_run_measured(tmp_path: Path) -> None:
    run, chosen = Run(tmp_path / "run"), suite(questions(tmp_path / "p.jsonl", 100))
    assert "hours are not known" in list(estimate.lines(chosen, run, 0))[1]
    rates = run.path / "teacher/rates.jsonl"
    rates.parent.mkdir(parents=True)
    write_jsonl(rates, [{"tokens": 1000, "seconds": 10, "prompts": 10}, {"tokens": 3000, "seconds": 10, "prompts": 30}])
    told = list(estimate.lines(chosen, run, 2))[1]
    assert "about 0.0 GPU-hours (200 tokens/s a worker, measured in this run; 100 tokens a prompt, measured)" in told
