"""The run folder ``runs/<RUN>/``: stage state, progress and heartbeat, endpoint registry.

Everything that two processes agree on through files is here, once: see docs/run-folder.md. Standard library and
pydantic only, so that a login node can read a run without torch.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from octupus.errors import JobError, Superseded, explain
from octupus.publish import publish_json, read_json

STALE_AFTER_S = 60.0
"""A heartbeat older than this many seconds means that its writer is dead."""
HEARTBEAT_S = 5.0
START = "OCTUPUS_START"
"""The variable that says to which start of which job a process belongs."""
Kind = TypeVar("Kind", bound=BaseModel)


def _read(path: Path, kind: type[Kind]) -> Kind | None:
    """What stands at ``path``; raises as :func:`read_json`."""
    raw = read_json(path)
    try:
        return None if raw is None else kind.model_validate(raw)
    except ValidationError as error:
        raise JobError(
            f"{explain(error, kind, str(path))}; restore it, or remove it to have its part done anew"
        ) from error


class Signs:
    """Signs of life, judged by one clock only: this process's own, which need not agree with the writer's.

    A file that has been replaced since it was last looked at is fresh from then on. At first sight there is only its
    age, by the file system's clock as a file of our own gets it; a reader that can wait for the next sign (``patient``)
    does without: on some file systems it is the writer's clock that dates a file.
    """

    def __init__(self, patient: bool = False) -> None:
        self.patient = patient
        self._seen: dict[Path, tuple[tuple[int, int], float]] = {}
        self._clocks: dict[Path, float] = {}

    def age(self, path: Path) -> float | None:
        """Seconds since ``path`` was written, as far as can be told; None: there is no such file."""
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        which, now = (found.st_ino, found.st_mtime_ns), time.monotonic()
        known = self._seen.get(path)
        if known is None:
            age = 0.0 if self.patient else max(0.0, self._now(path.parent) - found.st_mtime)
            self._seen[path] = which, now - age
        elif known[0] != which:
            self._seen[path] = which, now
        return now - self._seen[path][1]

    def _now(self, folder: Path) -> float:
        """What the file system's clock says."""
        if folder not in self._clocks:
            try:
                with tempfile.TemporaryFile(dir=folder) as probe:
                    probe.write(b".")
                    probe.flush()
                    self._clocks[folder] = os.fstat(probe.fileno()).st_mtime - time.monotonic()
            except OSError:  # not ours to write, or full: there is no better clock than our own then
                return time.time()
        return self._clocks[folder] + time.monotonic()


SIGNS = Signs()


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StageState(_Frozen):
    """``<stage>/state.json``: where a stage stands; status ``done`` is the done-marker."""

    status: Literal["submitted", "running", "done", "failed"]
    attempt: int = 1
    """How often it was submitted."""
    restart: int = 0
    """How often Slurm has started this attempt again."""
    job: str = ""
    """Slurm's id of the job that wrote this, ``17`` or ``17_3``."""
    reason: str = ""
    lost: bool = False
    """Failed for a reason outside the user's hands: the same job may well succeed."""
    inputs: str = ""
    """Hash over everything that decides the outputs; a done stage with the same hash is not run again."""
    code: str = ""
    """Digest of the code snapshot that it ran from."""
    outputs: dict[str, Any] = {}
    started_at: float | None = None
    ended_at: float | None = None


class Progress(_Frozen):
    """``<stage>/progress.json``, replaced atomically while a stage works."""

    done: float
    total: float | None
    unit: str
    rate: float | None = None
    """Units per second."""
    note: str = ""
    heartbeat_at: float


class Heartbeat(_Frozen):
    """``<stage>/heartbeat.json``: the job that works on a stage lives, also while it has no progress to report."""

    host: str
    pid: int
    at: float
    gpu_s: float = 0.0
    """Seconds times GPUs that the stage has taken so far, over all its starts."""


@dataclass(frozen=True, order=True)
class Start:
    """Which start of a job: of two, only the later one may write. Slurm can give a node up whose processes live on."""

    attempt: int
    restart: int = 0

    @classmethod
    def of(cls, state: StageState | None) -> Start:
        return cls(0) if state is None else cls(state.attempt, state.restart)

    @contextmanager
    def entered(self, stage: Stage) -> Iterator[None]:
        """This process, and what it starts meanwhile, belongs to this start of the stage's job."""
        before = os.environ.get(START)
        os.environ[START] = f"{stage.run.path}:{stage.name}:{self.attempt}.{self.restart}"
        try:
            yield
        finally:
            os.environ.pop(START)
            if before is not None:
                os.environ[START] = before


def check_current() -> None:
    """Whether this process may still write.

    Raises:
        Superseded: it belongs to a start of a job that is no longer the newest one.
    """
    if START not in os.environ:
        return
    folder, name, numbers = os.environ[START].rsplit(":", 2)
    attempt, restart = numbers.split(".")
    mine, newest = Start(int(attempt), int(restart)), Start.of(Run(folder).stage(name).state())
    if newest > mine:
        raise Superseded(
            f"{name}: attempt {newest.attempt} (restart {newest.restart}) has taken over from attempt {mine.attempt} "
            f"(restart {mine.restart}), which ends here and has written nothing since"
        )


class Endpoint(_Frozen):
    """``endpoints/<replica>.json``: a server that is ready; holds no secret."""

    url: str
    model: str
    job_id: str = ""
    instance: str
    heartbeat_at: float
    fingerprint: str = ""


class Stage:
    """One stage's folder inside a run."""

    def __init__(self, run: Run, name: str) -> None:
        self.run, self.name, self.path = run, name, run.path / name

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def state(self) -> StageState | None:
        return _read(self.path / "state.json", StageState)

    def set_state(self, state: StageState) -> None:
        """Raises:
        Superseded: a newer start of the job that this process belongs to has taken over.
        """
        check_current()
        publish_json(self.path / "state.json", state)

    def progress(self) -> Progress | None:
        return _read(self.path / "progress.json", Progress)

    def set_progress(self, done: float, unit: str) -> None:
        """Of work without an end."""
        now = Progress(done=done, total=None, unit=unit, heartbeat_at=time.time())
        publish_json(self.path / "progress.json", now)

    @contextmanager
    def beating(self, every_s: float = HEARTBEAT_S, first: bool = True, gpus: int = 0) -> Iterator[None]:
        """While a job works: the ``first`` rank publishes ``heartbeat.json``, each one ends itself if superseded."""
        over, began, before = threading.Event(), time.monotonic(), self.heartbeat()

        def beat() -> None:
            while True:
                used = (before.gpu_s if before else 0.0) + gpus * (time.monotonic() - began)
                self._beat(Heartbeat(host=this_host(), pid=os.getpid(), at=time.time(), gpu_s=used), first)
                if over.wait(every_s):
                    return

        thread = threading.Thread(target=beat, name=f"heartbeat-{self.name}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _beat(self, heart: Heartbeat, first: bool) -> None:
        path = self.path / "heartbeat.json"
        try:
            check_current()
            if first:
                publish_json(path, heart)
        except Superseded as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(error.exit_code)  # the main thread may sit in a call that no exception reaches
        except JobError:  # a full disk: whoever wants to write will say so; this process lives all the same
            if path.exists():
                os.utime(path)

    def heartbeat(self) -> Heartbeat | None:
        return _read(self.path / "heartbeat.json", Heartbeat)

    def silent_s(self, signs: Signs = SIGNS) -> float | None:
        """For how long the stage has given no sign of life, neither heartbeat nor progress; None: it never has."""
        ages = [signs.age(self.path / name) for name in ("heartbeat.json", "progress.json")]
        return min((age for age in ages if age is not None), default=None)

    def last_sign(self) -> float | None:
        """When the stage was last seen alive, in seconds since 1970 by this machine's clock."""
        silent = self.silent_s()
        return None if silent is None else time.time() - silent

    @contextmanager
    def reporting(self, total: float | None, unit: str, every_s: float = 0.5) -> Iterator[Reporter]:
        """Publish progress while a piece of work runs; the first and the last figure are always written."""
        reporter = Reporter(self, total, unit, every_s)
        reporter.update(0)
        try:
            yield reporter
        finally:
            reporter.flush()


class Reporter:
    """Counts work and publishes it to ``progress.json`` at most every ``every_s`` seconds."""

    def __init__(self, stage: Stage, total: float | None, unit: str, every_s: float) -> None:
        self.stage, self.total, self.unit, self.every_s = stage, total, unit, every_s
        self.done, self.note = 0.0, ""
        self._first: float | None = None
        self._began = time.monotonic()
        self._written = 0.0

    def update(self, done: float, note: str = "") -> None:
        """Set the number of units done so far (absolute, so that a resumed stage starts where it left off)."""
        self._first = done if self._first is None else self._first
        self.done, self.note = done, note
        if time.monotonic() - self._written >= self.every_s:
            self.flush()

    def advance(self, by: float = 1, note: str = "") -> None:
        self.update(self.done + by, note)

    def flush(self) -> None:
        self._written = time.monotonic()
        seconds = self._written - self._began
        rate = (self.done - (self._first or 0)) / seconds if seconds > 0 else None
        progress = Progress(
            done=self.done, total=self.total, unit=self.unit, rate=rate, note=self.note, heartbeat_at=time.time()
        )
        publish_json(self.stage.path / "progress.json", progress)


def runs_folder() -> Path:
    """``runs/`` of the checkout, or OCTUPUS_RUNS (a scratch file system)."""
    return Path(os.environ.get("OCTUPUS_RUNS") or Path(__file__).resolve().parents[1] / "runs").absolute()


class Run:
    """A run folder. Creating the object touches nothing on disk."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()

    @property
    def name(self) -> str:
        return self.path.name

    def stage(self, name: str) -> Stage:
        return Stage(self, name)

    def publish_endpoint(self, replica: str, endpoint: Endpoint) -> None:
        """Raises:
        Superseded: a newer start of the server's job has taken over.
        """
        check_current()
        publish_json(self.path / "endpoints" / f"{replica}.json", endpoint)

    def withdraw_endpoint(self, replica: str) -> None:
        (self.path / "endpoints" / f"{replica}.json").unlink(missing_ok=True)

    def endpoints(self) -> dict[str, Endpoint]:
        """The endpoints whose heartbeat is fresh, by replica."""
        ages = {path: SIGNS.age(path) for path in sorted((self.path / "endpoints").glob("*.json"))}
        fresh = [path for path, age in ages.items() if age is not None and age < STALE_AFTER_S]
        found = {path.stem: read_json(path) for path in fresh}
        return {name: Endpoint.model_validate(raw) for name, raw in found.items() if raw is not None}


def this_host() -> str:
    """The address under which other nodes reach this one: its name where that resolves, else its number."""
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))  # sends nothing: it asks which of our addresses would be used
                return str(probe.getsockname()[0])
            except OSError:
                return "127.0.0.1"
    return name
