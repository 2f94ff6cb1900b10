"""A server apart from its job's process: its own group, signals passed on, its last word brought back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from octupus.errors import ConfigError, Lost
from slurm.apart import WIND_DOWN, run_apart


def serve(folder: Path) -> int:
    """Ends by a signal as a server does, with a child of its own, as an engine is."""
    received = list[int]()
    signal.signal(signal.SIGTERM, lambda n, _: received.append(n))
    engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (folder / "pids").write_text(f"{os.getpid()} {os.getpgrp()} {engine.pid} ")
    while not received:
        time.sleep(0.01)
    (folder / "engine").write_text(str(engine.poll()))
    engine.kill()
    engine.wait()
    return received[0]


def never() -> bool:
    return False


def refuse() -> int:
    raise ConfigError("port 8000 is taken")


def die() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def pids(folder: Path) -> list[int]:
    """The server, its group and its engine, once they are there."""
    while not (folder / "pids").exists() or not (folder / "pids").read_text().endswith(" "):
        time.sleep(0.01)
    return [int(word) for word in (folder / "pids").read_text().split()]


@contextmanager
def as_slurm_does(folder: Path, number: signal.Signals) -> Iterator[None]:
    """Every process of the step gets the signal, the engine first."""

    def hit() -> None:
        server, _, engine = pids(folder)
        for pid in (engine, server, os.getpid()):
            os.kill(pid, number)

    hitting = threading.Thread(target=hit)
    hitting.start()
    yield
    hitting.join()


@pytest.mark.parametrize("number", [WIND_DOWN, signal.SIGUSR2])
def test_only_the_job_hears_it_and_the_engine_lives_until_the_server_has_drained(
    tmp_path: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    with as_slurm_does(tmp_path, number):
        assert run_apart(never, serve, tmp_path) == number
    server, group, _ = pids(tmp_path)
    assert server == group != os.getpgrp() and (tmp_path / "engine").read_text() == "None", "the engine lived on"
    assert signal.getsignal(number) is before


def test_a_wish_that_was_there_before_it_ran_ends_it_too(tmp_path: Path) -> None:
    assert run_apart(lambda: bool(pids(tmp_path)), serve, tmp_path) == WIND_DOWN
    assert (tmp_path / "engine").read_text() == "None"


def end_at_once(folder: Path) -> int:
    """A server that dies of the signal that its engine heard too."""
    (folder / "pids").write_text(f"{os.getpid()} {os.getpgrp()} {os.getpid()} ")
    time.sleep(60)
    return 0


def test_a_server_that_dies_of_what_it_was_told_has_ended_well(tmp_path: Path) -> None:
    with as_slurm_does(tmp_path, signal.SIGTERM):
        assert run_apart(never, end_at_once, tmp_path) == signal.SIGTERM


def test_what_went_wrong_comes_back() -> None:
    with pytest.raises(ConfigError, match="port 8000 is taken"):
        run_apart(never, refuse)
    with pytest.raises(Lost, match="was killed by signal 9"):
        run_apart(never, die)


def test_it_ends_with_the_job_however_that_ends(tmp_path: Path) -> None:
    code = f"from tests.unit.test_apart import *; run_apart(never, serve, Path({str(tmp_path)!r}))"
    job = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    server = pids(tmp_path)[0]
    job.kill()
    job.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{server}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (tmp_path / "engine").exists(), "told to end when its job was killed"
