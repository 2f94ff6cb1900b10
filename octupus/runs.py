"""The run folder ``runs/<RUN>/``: atomic publish, stage state, progress and heartbeat, endpoint registry.

Everything that two processes agree on through files is here, once: see docs/run-folder.md. Standard library and
pydantic only, so that a login node can read a run without torch.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from octupus.errors import JobError

STALE_AFTER_S = 60.0
"""A heartbeat older than this many seconds means that its writer is dead."""
HEARTBEAT_S = 5.0


def publish_bytes(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old content or the new, never a half.

    Raises:
        JobError: the file system is full or not writable; nothing at ``path`` has changed then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> JobError:
    return JobError(f"cannot write {path}: {error.strerror}; free some space or choose another RUN folder")


def publish_json(path: Path, value: Any) -> None:
    """:func:`publish_bytes` of ``value`` (a pydantic model or plain data) as indented JSON."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    publish_bytes(path, (json.dumps(plain, ensure_ascii=False, indent=1) + "\n").encode())


def read_json(path: Path) -> Any | None:
    """The JSON at ``path``, or None where there is none.

    Raises:
        JobError: the file is damaged (publishing leaves none such: a copy that was cut off, a disk that failed).
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise JobError(f"{path} is damaged ({error}); restore it, or remove it to have its part done anew") from error


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StageState(_Frozen):
    """``<stage>/state.json``: where a stage stands; status ``done`` is the done-marker."""

    status: Literal["submitted", "running", "done", "failed"]
    attempt: int = 1
    reason: str = ""
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


class Endpoint(_Frozen):
    """``endpoints/<replica>.json``: a server that is ready; holds no secret."""

    url: str
    model: str
    job_id: str = ""
    instance: str
    heartbeat_at: float
    fingerprint: str = ""

    @property
    def alive(self) -> bool:
        return time.time() - self.heartbeat_at < STALE_AFTER_S


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
        raw = read_json(self.path / "state.json")
        return None if raw is None else StageState.model_validate(raw)

    def set_state(self, state: StageState) -> None:
        publish_json(self.path / "state.json", state)

    def progress(self) -> Progress | None:
        raw = read_json(self.path / "progress.json")
        return None if raw is None else Progress.model_validate(raw)

    @contextmanager
    def beating(self, every_s: float = HEARTBEAT_S) -> Iterator[None]:
        """Publish ``heartbeat.json`` from a thread while a job works."""
        over = threading.Event()

        def beat() -> None:
            while True:
                beat = Heartbeat(host=this_host(), pid=os.getpid(), at=time.time())
                publish_json(self.path / "heartbeat.json", beat)
                if over.wait(every_s):
                    return

        thread = threading.Thread(target=beat, name=f"heartbeat-{self.name}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def last_sign(self) -> float | None:
        """When the stage was last seen alive (seconds since 1970): the newer of its heartbeat and its progress."""
        raw, progress = read_json(self.path / "heartbeat.json"), self.progress()
        signs = [] if raw is None else [Heartbeat.model_validate(raw).at]
        signs += [] if progress is None else [progress.heartbeat_at]
        return max(signs, default=None)

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
        publish_json(self.path / "endpoints" / f"{replica}.json", endpoint)

    def withdraw_endpoint(self, replica: str) -> None:
        (self.path / "endpoints" / f"{replica}.json").unlink(missing_ok=True)

    def endpoints(self) -> dict[str, Endpoint]:
        """The endpoints whose heartbeat is fresh, by replica."""
        found = {p.stem: read_json(p) for p in sorted((self.path / "endpoints").glob("*.json"))}
        parsed = {name: Endpoint.model_validate(raw) for name, raw in found.items() if raw is not None}
        return {name: endpoint for name, endpoint in parsed.items() if endpoint.alive}


def this_host() -> str:
    """The address under which other nodes reach this one; the host's name where it resolves, else loopback."""
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return "127.0.0.1"
    return name


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """Append one line; a single ``write`` call, so that lines of several writers do not mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as stream:
        stream.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
