"""The server of a chain as its users see it: waited for and ended from jobs that may lack Slurm's commands."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from octupus.errors import Lost
from octupus.runs import Endpoint
from slurm import service
from slurm.ledger import Ledger, Submission
from slurm.queue import Queue, Silent
from tests.unit.test_keeper import Chain


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    return Chain(tmp_path, monkeypatch)


def test_without_slurms_commands_one_endpoint_is_waited_for_and_the_server_is_ended_by_a_file(
    made: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.submit("serve", "bfcl", "score")
    monkeypatch.setenv("PATH", "")
    looks = itertools.count()

    def sleep(_: float) -> None:
        if next(looks) == 1:
            there = Endpoint(url="http://x:1", model="m", instance="a", heartbeat_at=time.time())
            made.run.publish_endpoint("0", there)

    monkeypatch.setattr(service.time, "sleep", sleep)
    service.await_endpoint(made.run, Queue())
    assert next(looks) == 2
    assert not service.asked_to_end(made.run, "1")
    service.release_from(made.run, "score", failed=False)
    assert service.asked_to_end(made.run, "1") and not service.asked_to_end(made.run, "2")


def test_without_slurms_commands_nobody_waits_for_ever(made: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    made.submit("serve", "bfcl", "score")
    monkeypatch.setenv("PATH", "")
    clock = itertools.count(0, 200)
    monkeypatch.setattr(service.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(Lost, match="no endpoint came up in time"):
        service.await_endpoint(made.run, Queue(), poll_s=0)


def test_a_score_does_not_fail_because_slurm_is_silent(
    made: Chain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made.submit("serve", "bfcl", "score")

    def silent(*_: Any) -> None:
        raise Silent("squeue failed")

    monkeypatch.setattr(service, "release", silent)
    service.release_from(made.run, "score", failed=False)
    assert "the server is not ended yet: squeue failed" in capsys.readouterr().out


def test_a_failed_score_ends_the_server_only_where_no_keeper_watches(
    made: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[str] = []
    monkeypatch.setattr(service, "release", lambda run, stage: released.append(stage))
    made.submit("serve", "bfcl", "score")
    service.release_from(made.run, "score", failed=True)
    assert released == ["score"]
    Ledger(made.run).add(Submission(stage="keeper", job_id="9", cluster="devcluster"))
    service.release_from(made.run, "score", failed=True)
    assert released == ["score"]
