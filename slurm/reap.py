"""No orphans: every process of a job carries a mark in its environment, and whoever carries it can be ended.

The mark is ``OCTUPUS_JOB=<run folder>:<stage>[/<task>]:<attempt>``; children inherit it, so a process whose
parent is long gone is found all the same. ``SPT_NOENV`` keeps setproctitle (vLLM uses it) from writing its title over
the environment.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = "OCTUPUS_JOB"


@dataclass(frozen=True)
class Marked:
    """A process of a job."""

    pid: int
    parent: int
    stage: str
    command: str


def mark(run: Path, stage: str, attempt: int) -> dict[str, str]:
    """What a job adds to the environment of its processes."""
    return {MARK: f"{run}:{stage}:{attempt}", "SPT_NOENV": "1"}


def marked(run: Path, stage: str | None = None) -> list[Marked]:
    """The living processes of a run (of one stage of it), but for this one."""
    return [p for p in _all(os.fsencode(f"{MARK}={run}:")) if stage is None or f"{p.stage}/".startswith(f"{stage}/")]


def _all(prefix: bytes) -> Iterator[Marked]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            values = [v for v in (entry / "environ").read_bytes().split(b"\0") if v.startswith(prefix)]
            status = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:  # gone while we looked, or another user's
            continue
        if values and status[0] != "Z":
            stage = values[0].decode(errors="surrogateescape").rsplit(":", 2)[1]
            yield Marked(int(entry.name), int(status[1]), stage, command)


def end(run: Path, stage: str | None = None, grace_s: float = 20.0) -> int:
    """Ask the processes of a run (of one stage) to end, and kill what has not after ``grace_s``; how many there were.

    Only the outermost ones are asked: each hands the signal on to those it started, in its own order.
    """
    found = marked(run, stage)
    pids = {p.pid for p in found}
    for process in found:
        if process.parent not in pids:
            _signal(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while marked(run, stage) and time.monotonic() < deadline:
        time.sleep(0.05)
    kill(run, stage)
    return len(found)


def kill(run: Path, stage: str | None = None, within_s: float = 5.0) -> None:
    """Kill the processes of a run (of one stage) and what they start meanwhile, until none is left."""
    deadline = time.monotonic() + within_s
    while (left := marked(run, stage)) and time.monotonic() < deadline:
        for process in left:
            # The resource tracker of multiprocessing ends with its owner, and cleans shared memory up first.
            if "resource_tracker" not in process.command or time.monotonic() > deadline - within_s / 2:
                _signal(process.pid, signal.SIGKILL)
        time.sleep(0.02)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it ended by itself: what we wanted
