"""The run folder: what is published is whole, and what is stale is seen to be."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from octupus.errors import JobError, Superseded
from octupus.publish import append_jsonl, publish_json, read_json
from octupus.runs import STALE_AFTER_S, Endpoint, Run, Signs, StageState, Start, check_current


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    path, stop = tmp_path / "value.json", threading.Event()
    values = [{"n": i, "pad": "x" * 50_000} for i in range(2)]
    publish_json(path, values[0])

    def write() -> None:
        for i in range(150):
            publish_json(path, values[i % 2])
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = 0
    while not stop.is_set():
        assert read_json(path) in values
        seen += 1
    writer.join()
    assert seen > 0
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"], "no temporary file is left"


def test_an_unwritable_folder_is_a_sentence_and_the_old_value_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises((JobError, OSError)) as caught:
        publish_json(tmp_path / "file" / "x.json", {})
    assert "file" in str(caught.value)


def test_state_and_progress_round_trip(tmp_path: Path) -> None:
    stage = Run(tmp_path).stage("data")
    assert stage.state() is None and stage.progress() is None
    stage.set_state(StageState(status="done", inputs="abc", outputs={"rows": 3}))
    assert stage.state() == StageState(status="done", inputs="abc", outputs={"rows": 3})
    with stage.reporting(10, "rows", every_s=0) as report:
        report.update(4)
        report.advance(2, "loss 1.0")
    progress = stage.progress()
    assert progress is not None
    assert (progress.done, progress.total, progress.unit, progress.note) == (6, 10, "rows", "loss 1.0")
    assert progress.heartbeat_at <= time.time()


def test_a_resumed_stage_reports_the_rate_of_its_own_work(tmp_path: Path) -> None:
    stage = Run(tmp_path).stage("data")
    with stage.reporting(1000, "rows", every_s=0) as report:
        report._first = None
        report.update(900)
    progress = stage.progress()
    assert progress is not None and progress.rate == 0


def test_only_endpoints_with_a_fresh_heartbeat_are_listed(tmp_path: Path) -> None:
    run, now = Run(tmp_path), time.time()
    run.publish_endpoint("0", Endpoint(url="http://a", model="m", instance="i", heartbeat_at=now))
    run.publish_endpoint("1", Endpoint(url="http://b", model="m", instance="j", heartbeat_at=now))
    os.utime(tmp_path / "endpoints/1.json", (now - STALE_AFTER_S - 1,) * 2)
    assert list(run.endpoints()) == ["0"]
    run.withdraw_endpoint("0")
    assert run.endpoints() == {}


def test_lines_of_several_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    writers = [
        threading.Thread(target=lambda w=w: [append_jsonl(path, {"w": w, "pad": "y" * 3000}) for _ in range(50)])
        for w in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(r["w"] for r in rows) == sorted([0, 1, 2, 3] * 50)


# ---- signs of life, whatever clocks say


def test_a_living_writer_whose_clock_is_ten_minutes_behind_is_not_taken_for_dead(tmp_path: Path) -> None:
    signs, path = Signs(), tmp_path / "heartbeat.json"
    for content in ("one", "two"):
        publish_json(path, content)
        os.utime(path, (time.time() - 600,) * 2)  # some file systems date files by the writer's clock
        age = signs.age(path)
    assert age is not None and age < 1, "it was replaced while we looked"
    first = Signs().age(path)
    assert first is not None and first > 500, "at first sight there is nothing but its date"
    assert Signs(patient=True).age(path) == 0, "who can wait for the next sign does without"


def test_a_dead_writer_whose_clock_was_ten_minutes_ahead_is_dead_once_it_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signs, path, now = Signs(), tmp_path / "heartbeat.json", time.monotonic()
    publish_json(path, "last")
    os.utime(path, (time.time() + 600,) * 2)
    assert signs.age(path) == pytest.approx(0, abs=1)
    monkeypatch.setattr(time, "monotonic", lambda: now + STALE_AFTER_S + 5)
    age = signs.age(path)
    assert age is not None and age > STALE_AFTER_S


def test_our_own_clock_does_not_matter_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_json(tmp_path / "heartbeat.json", "now")
    wrong = time.time() + 600
    monkeypatch.setattr(time, "time", lambda: wrong)
    age = Signs().age(tmp_path / "heartbeat.json")
    assert age is not None and age < 5
    assert Signs().age(tmp_path / "nothing") is None


# ---- only the newest start of a job may write


def test_a_start_that_was_superseded_can_write_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    stage, endpoint = run.stage("serve"), Endpoint(url="http://a", model="m", instance="i", heartbeat_at=0)
    stage.set_state(StageState(status="running", attempt=2, restart=0))
    with Start(2, 0).entered(stage):
        check_current()
        run.publish_endpoint("0", endpoint)
        taken_over = StageState(status="running", attempt=2, restart=1)
        publish_json(stage.path / "state.json", taken_over)  # by another process
        for write in (
            lambda: stage.set_state(StageState(status="done", attempt=2)),
            lambda: run.publish_endpoint("0", endpoint),
            check_current,
        ):
            with pytest.raises(Superseded, match=r"restart 1\) has taken over"):
                write()
    assert stage.state() == taken_over
    check_current()  # a person's command belongs to no job
    with Start(3).entered(stage):
        check_current()


def test_the_heart_of_a_stage_counts_gpu_seconds_over_all_its_starts(tmp_path: Path) -> None:
    stage = Run(tmp_path).stage("stage1")
    publish_json(stage.path / "heartbeat.json", {"host": "h", "pid": 1, "at": 0.0, "gpu_s": 100.0})
    with stage.beating(every_s=0.01, gpus=1000):
        deadline = time.monotonic() + 20
        while (heart := stage.heartbeat()) is None or heart.gpu_s <= 101:
            assert time.monotonic() < deadline
    assert heart.gpu_s > 101 and stage.silent_s() is not None


def test_a_line_for_which_there_is_no_space_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "jobs.jsonl"
    append_jsonl(path, {"n": 1})

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            return super().write(bytes(data)[:5])

    monkeypatch.setattr(Path, "open", lambda self, *_, **__: Full(self, "ab"))
    with pytest.raises(OSError, match="No space left"):
        append_jsonl(path, {"n": 2})
    monkeypatch.undo()
    append_jsonl(path, {"n": 3})
    assert path.read_text() == '{"n": 1}\n{"n": 3}\n'


def test_a_damaged_state_is_a_sentence(tmp_path: Path) -> None:
    stage = Run(tmp_path / "run").stage("stage1")
    stage.path.mkdir(parents=True)
    (stage.path / "state.json").write_text("{}")
    with pytest.raises(JobError, match=r"state.json.*status.*restore it, or remove it"):
        stage.state()
