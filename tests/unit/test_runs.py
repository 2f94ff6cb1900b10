"""The run folder: what is published is whole, and what is stale is seen to be."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from octupus.errors import JobError
from octupus.runs import STALE_AFTER_S, Endpoint, Run, StageState, append_jsonl, publish_json, read_json


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
    run.publish_endpoint("1", Endpoint(url="http://b", model="m", instance="j", heartbeat_at=now - STALE_AFTER_S - 1))
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
