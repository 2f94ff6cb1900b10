"""The processes that an engine starts, found again by a mark in their environment: all must go with the server."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "OCTUPUS_SERVER"


class Brood:
    """Whatever was started while :meth:`marked`, and what that started, orphans included."""

    def __init__(self) -> None:
        self._mark = secrets.token_hex(8)

    @contextlib.contextmanager
    def marked(self) -> Iterator[None]:
        """Processes started meanwhile belong to this brood."""
        os.environ[VARIABLE] = self._mark
        try:
            yield
        finally:
            del os.environ[VARIABLE]

    def alive(self) -> list[int]:
        """Their ids. multiprocessing's resource tracker is left out: it ends with its owner and cleans up after it."""
        mark, found = f"{VARIABLE}={self._mark}".encode(), []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):  # gone while we looked, or not ours to read
                    marked = mark in (entry / "environ").read_bytes().split(b"\0")
                    if marked and b"resource_tracker" not in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
        return found

    def end(self, grace_s: float) -> list[int]:
        """Wait up to ``grace_s`` for them to leave by themselves, then kill them; the ids that were killed."""
        deadline = time.monotonic() + grace_s
        while (left := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left
