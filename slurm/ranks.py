"""Runs beside a local job and watches its ranks: one fails, all end; the launcher dies, all end; nothing is left.

submitit's own controller waits for every rank however long, and survives whoever started it. Started by slurm/local.py
as ``python -m slurm.ranks FOLDER``; what happened is left in ``FOLDER/<job id>_exit.json``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from submitit.local.local import Controller

from octupus.publish import publish_json
from slurm import reap

POLL_S = 0.05
LAUNCHER, GRACE = "OCTUPUS_LAUNCHER", "OCTUPUS_GRACE_S"


class Ranks(Controller):  # type: ignore[misc]
    """submitit's tasks (one process a rank, logs, variables) under our supervision."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.stopped = ""
        self.launcher = int(os.environ.get(LAUNCHER, "0"))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped = self.stopped or signal.Signals(number).name

    def supervise(self) -> int:
        """Start the ranks, wait, end them together; 0 when all ended well."""
        self.start_tasks()
        codes = self._wait()
        if self.stopped:
            self._forward_signal(signal.SIGTERM)
            deadline = time.monotonic() + float(os.environ.get(GRACE, "20"))
            while None in (codes := self._codes()) and time.monotonic() < deadline:
                time.sleep(POLL_S)
        for task in self.tasks:
            if task.poll() is None:
                task.kill()
        run, stage, _ = os.environ[reap.MARK].rsplit(":", 2)
        for task in self.tasks:
            task.wait()
        publish_json(self.folder / f"{self.pid}_exit.json", {"codes": codes, "stopped": self.stopped})
        reap.kill(Path(run), stage)
        return 0 if all(code == 0 for code in codes) else 1

    def _wait(self) -> list[int | None]:
        """The ranks' exit codes when all have ended, when the first one has failed, or when asked to stop."""
        while not self.stopped:
            codes = self._codes()
            if None not in codes or any(codes):
                return codes
            if self.launcher and os.getppid() != self.launcher:
                self.stopped = "the command that started it is gone"
            time.sleep(POLL_S)
        return self._codes()

    def _codes(self) -> list[int | None]:
        return [task.poll() for task in self.tasks]


if __name__ == "__main__":
    sys.exit(Ranks(Path(sys.argv[1])).supervise())
