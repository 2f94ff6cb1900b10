"""A server apart from its job's process: its own group, signals passed on, its last word brought back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from octupus.errors import ConfigError, Lost
from slurm.apart import run_apart


def wait_for_signal(folder: Path) -> int:
    """Ends by a signal as a server does; a child of its own, as an engine has, must not hear it."""
    received = list[int]()
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda n, _: received.append(n))
    engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (folder / "pids").write_text(f"{os.getpid()} {os.getpgrp()} {engine.pid}")
    while not received:
        time.sleep(0.01)
    (folder / "engine").write_text(str(engine.poll()))
    engine.kill()
    engine.wait()
    return received[0]


def refuse() -> int:
    raise ConfigError("port 8000 is taken")


def die() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_only_the_server_hears_a_signal_to_the_group(tmp_path: Path, number: signal.Signals) -> None:
    def hit() -> None:
        while not (tmp_path / "pids").exists() or not (tmp_path / "pids").read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    hitting = threading.Thread(target=hit)
    hitting.start()
    before = signal.getsignal(number)
    assert run_apart(wait_for_signal, tmp_path) == number
    hitting.join()
    server, group, _ = map(int, (tmp_path / "pids").read_text().split())
    assert server == group != os.getpgrp() and (tmp_path / "engine").read_text() == "None", "the engine lived on"
    assert signal.getsignal(number) is before


def end_at_once(folder: Path) -> int:
    """A server whose engine heard the signal too: it dies of it."""
    (folder / "pids").write_text(f"{os.getpid()}")
    time.sleep(60)
    return 0


def test_a_server_that_dies_of_what_it_was_told_has_ended_well(tmp_path: Path) -> None:
    def hit() -> None:
        while not (tmp_path / "pids").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    hitting = threading.Thread(target=hit)
    hitting.start()
    assert run_apart(end_at_once, tmp_path) == signal.SIGTERM
    hitting.join()


def test_what_went_wrong_comes_back() -> None:
    with pytest.raises(ConfigError, match="port 8000 is taken"):
        run_apart(refuse)
    with pytest.raises(Lost, match="was killed by signal 9"):
        run_apart(die)


def test_it_ends_with_the_job_however_that_ends(tmp_path: Path) -> None:
    code = f"from tests.unit.test_apart import *; run_apart(wait_for_signal, Path({str(tmp_path)!r}))"
    job = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    pids = tmp_path / "pids"
    while not pids.exists() or not pids.read_text():
        time.sleep(0.01)
    server = int(pids.read_text().split()[0])
    job.kill()
    job.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{server}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (tmp_path / "engine").exists(), "told to end when its job was killed"
