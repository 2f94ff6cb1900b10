"""One command at a time works on a stage of a run, and nothing that it started outlives it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Literal

from octupus.errors import ConfigError
from octupus.runs import Run
from slurm import reap


def mark_over(run: Run, name: str, status: Literal["done", "failed"], reason: str = "stopped") -> None:
    """A job that was ended from outside had no chance to say so in its state itself."""
    tasks = sorted((run.path / name / "tasks").glob("*"))
    for stage in (run.stage(place) for place in (name, *(f"{name}/tasks/{task.name}" for task in tasks))):
        state = stage.state()
        if state is not None and state.status in ("submitted", "running"):
            told = {"status": status, "reason": reason, "ended_at": time.time()}
            stage.set_state(state.model_copy(update=told))


class Claim:
    """Locks on stages. A supervisor inherits its stage's lock, so that the stage stays taken while it lives."""

    def __init__(self, run: Run, names: Sequence[str]) -> None:
        self.run, self.names = run, names
        self.locks: dict[str, int] = {}

    def __enter__(self) -> Claim:
        """Raises:
        ConfigError: another command works on one of them. What a former crash left of them is ended.
        """
        for name in self.names:
            path = self.run.path / ".locks" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self.locks[name] = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(self.locks[name], fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._release()
                raise ConfigError(
                    f"stage {name} of run {self.run.name} is being worked on by another command; see make status "
                    f"RUN={self.run.name}, or stop it with make cancel RUN={self.run.name} STAGE={name}"
                ) from error
            reap.end(self.run.path, name, grace_s=5)
            mark_over(self.run, name, "failed")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._release()

    def end_all(self) -> None:
        """End every process of the claimed stages, the last one first: clients before their servers."""
        for name in reversed(list(self.locks)):
            reap.end(self.run.path, name)
            mark_over(self.run, name, "failed")

    def _release(self) -> None:
        for lock in self.locks.values():
            os.close(lock)
        self.locks.clear()
