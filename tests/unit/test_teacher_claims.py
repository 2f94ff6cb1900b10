"""Shards are claimed by one worker; those of the dead are taken over, those of the living are not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from octupus.publish import publish_json
from octupus.teacher.claims import Claim, Claims


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "claims"


def claims(folder: Path, stale_after_s: float = 60.0) -> Claims:
    return Claims(folder, stale_after_s, every_s=0.02)


def elsewhere(claim: Claim) -> None:
    """Make a claim look as if another node had written it."""
    publish_json(claim.path, {**json.loads(claim.path.read_text()), "host": "another", "boot": "another"})


def test_one_of_many_gets_a_claim_and_it_goes_back_at_the_end(folder: Path) -> None:
    many = [claims(folder) for _ in range(8)]
    got: list[Claim | None] = []
    barrier = threading.Barrier(len(many))

    def contend(mine: Claims) -> None:
        barrier.wait()
        got.append(mine.take("00001"))

    threads = [threading.Thread(target=contend, args=(mine,)) for mine in many]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [claim for claim in got if claim is not None]
    assert len(winners) == 1 and winners[0].generation == 1
    with claims(folder) as other:
        assert other.take("00002") is not None
        assert other.take("00002") is None, "taken, by ourselves"
        assert len(other.owners()) == 2
    assert not list(folder.glob("00002*"))


def test_a_killed_process_of_this_host_is_dead_at_once(folder: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from octupus.teacher.claims import Claims\n"
        "with Claims(Path(sys.argv[1])) as c:\n    c.take('x'); print('taken', flush=True); time.sleep(600)"
    )
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, cwd=root)
    assert process.stdout is not None and process.stdout.readline() == b"taken\n"
    mine = claims(folder)
    assert mine.take("x") is None, "it lives"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    taken = mine.take("x")
    assert taken is not None and taken.generation == 2


def test_another_nodes_claim_is_dead_when_it_no_longer_changes_whatever_its_clock_says(folder: Path) -> None:
    first = claims(folder).take("x")
    assert first is not None
    elsewhere(first)
    old = json.loads(first.path.read_text())
    mine = claims(folder, stale_after_s=0.0)
    assert mine.take("x") is None, "seen for the first time"
    publish_json(first.path, {**old, "at": old["at"] - 600})
    assert mine.take("x") is None, "it has changed, so its writer lives, ten minutes behind us"
    second = mine.take("x")
    assert second is not None and second.generation == 2
    assert first.lost and not second.lost
    mine.release(second)
    assert first.lost and not list(folder.iterdir())


def test_a_claim_that_is_given_up_does_not_come_back(folder: Path) -> None:
    with claims(folder) as mine:
        for _ in range(20):
            claim = mine.take("x")
            assert claim is not None and claim.generation == 1
            before = claim.path.read_bytes()
            waited = threading.Event()
            while claim.path.read_bytes() == before:  # the heartbeat goes on
                waited.wait(0.005)
            mine.release(claim)
            assert not claim.path.exists()
    assert not list(folder.iterdir())


def test_revoked_claims_are_lost_to_their_owners(folder: Path) -> None:
    theirs = claims(folder).take("00001")
    mine = claims(folder)
    plan = mine.take("plan")
    assert theirs is not None and plan is not None
    mine.revoke()
    assert theirs.lost and not plan.lost
