"""``jobs.jsonl``: what was submitted to Slurm, as which job, and what the keeper ended itself; lines are only added."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import Field, ValidationError

from octupus.config import Section
from octupus.errors import ConfigError, JobError, explain
from octupus.publish import append_jsonl
from octupus.runs import Run


class Submission(Section):
    """One job (or array) of one stage; holds all that is needed to submit it once more."""

    executor: str = "slurm"
    stage: str
    job_id: str
    """As sbatch told it: an array's without its tasks."""
    attempt: int = 1
    tasks: tuple[str, ...] = ()
    """Of an array, by Slurm's number: task ``17_2`` is ``tasks[2]``."""
    inputs: str = ""
    code: str = ""
    needs: tuple[str, ...] = ()
    """Stages whose done-markers the job checks when it starts."""
    links: dict[str, str] = Field(default_factory=dict)
    """Stages that it waits for, with the ids of their jobs."""
    cluster: str = "local"
    retry: int = 0
    """How often in a row the keeper has submitted it again without progress; 0: a person did."""
    done: float = 0.0
    """Its progress when it was submitted."""
    until: str = ""
    """Of a server that belongs to a chain: the last stage that needs it."""
    exclude: str = ""
    """Nodes that it must not get, as Slurm writes them."""
    name: str = ""
    """The job's name: ids are given anew when a controller loses its state, names tell."""
    logs: tuple[str, ...] = ()
    """Of each rank (of an array: each task), relative to the run folder."""
    at: float = 0.0

    def job_ids(self) -> dict[str, str]:
        """Slurm's ids of its jobs, each with the task that it is (``""`` where it is no array)."""
        if len(self.tasks) > 1:
            return {f"{self.job_id}_{number}": task for number, task in enumerate(self.tasks)}
        return {self.job_id: self.tasks[0] if self.tasks else ""}


class Ended(Section):
    """A job that was ended by us, not by a person: its stage may be submitted again."""

    executor: str = "slurm"
    ended: str
    """The job's id."""
    reason: str
    at: float


class Ledger:
    """The lines of a run's jobs.jsonl that are about Slurm, as they were when it was read."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.submissions: list[Submission] = []
        self.ended: dict[str, str] = {}
        for row in _rows(run):
            if "ended" in row:
                self.ended[row["ended"]] = row["reason"]
            elif row.get("executor") == "slurm":
                try:
                    self.submissions.append(Submission.model_validate(row))
                except ValidationError as error:
                    what = f"{run.path / 'jobs.jsonl'}: a submission of another version of the code"
                    raise JobError(explain(error, Submission, what)) from error

    @property
    def newest(self) -> dict[str, Submission]:
        """The last submission of each stage."""
        return {one.stage: one for one in self.submissions}

    def add(self, one: Submission) -> None:
        append_jsonl(self.run.path / "jobs.jsonl", one.model_dump(mode="json"))
        self.submissions.append(one)

    def end(self, job_id: str, reason: str) -> None:
        """Note that a job is ended by us, before that is done: afterwards nobody could tell us from a person."""
        append_jsonl(
            self.run.path / "jobs.jsonl", Ended(ended=job_id, reason=reason, at=time.time()).model_dump(mode="json")
        )
        self.ended[job_id] = reason


def _rows(run: Run) -> Iterator[dict[str, str]]:
    path = run.path / "jobs.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):  # the last one may be on its way
            return
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise JobError(
                f"{path}, line {number}, is damaged: take it out; a job that it told of is found by its name, "
                f"squeue --me --name={run.name}-<stage>"
            )
        yield row


@contextmanager
def alone(run: Run) -> Iterator[None]:
    """One process at a time submits jobs of a run: a person's command, or the keeper.

    Raises:
        ConfigError: the file system knows no locks.
    """
    path = run.path / ".locks" / "queue"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be locked ({error.strerror}): put the runs folder (OCTUPUS_RUNS) on a file system with "
                "flock, such as NFS 4, or Lustre mounted with -o flock"
            ) from error
        yield
