"""The chain on this machine: submitit's LocalExecutor knows no dependencies, so stages are started here, one by one."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, cast

from submitit import LocalExecutor
from submitit.local.local import LocalJob

from octupus.config import Recipe
from octupus.errors import JobError
from octupus.publish import append_jsonl, read_json
from octupus.runs import StageState
from slurm import chain, ranks, reap
from slurm.chain import Planned
from slurm.claim import Claim, mark_over
from slurm.stage import StageJob, place
from slurm.view import View, shown

POLL_S = 0.2
TASKS_AT_ONCE = 2
"""Tasks of an array that run here at the same time."""
LOG_LINES = 12


class Stopped(JobError):
    """A signal ended the chain; everything that it had started has ended."""

    exit_code = 130


class Executor(LocalExecutor):  # type: ignore[misc]
    """submitit's local executor with our supervisor (slurm/ranks.py) in place of its own."""

    def __init__(self, folder: Path, python: str, environment: Mapping[str, str], detached: bool, lock: int) -> None:
        super().__init__(folder, python=python)
        self.environment, self.detached, self.lock = dict(environment), detached, lock

    def _submit_command(self, command: str) -> LocalJob[Any]:
        count = self.parameters.get("tasks_per_node", 1)
        environment = {
            **os.environ,
            **self.environment,
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_COMMAND": command,
            "SUBMITIT_LOCAL_NTASKS": str(count),
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_TIMEOUT_S": "0",
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": "0",
            "SUBMITIT_STDERR_TO_STDOUT": "1",
            "SUBMITIT_LOCAL_WITH_SHELL": "",
            ranks.LAUNCHER: "0" if self.detached else str(os.getpid()),
        }
        with (Path(self.folder) / "supervisor.out").open("ab") as log:
            process = subprocess.Popen(
                [*shlex.split(self.python), "-m", "slurm.ranks", str(self.folder)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the launcher, which ends the stages in their order
                pass_fds=(self.lock,),  # the stage stays locked for as long as its supervisor lives
            )
        return LocalJob(folder=self.folder, job_id=str(process.pid), process=process, tasks=list(range(count)))


@dataclass
class Launched:
    """A stage that runs."""

    planned: Planned
    job: LocalJob[Any]
    folder: Path
    attempt: int
    task: str = ""
    began: float = field(default_factory=time.time)

    @property
    def name(self) -> str:
        return self.planned.name

    @property
    def place(self) -> str:
        return place(self.name, self.task)

    @property
    def over(self) -> bool:
        return bool(self.job.done())

    def log(self, rank: int = 0) -> Path:
        return Path(self.job.task(rank).paths.stdout)


class LocalChain:
    """Runs a plan whose stages are claimed. ``jobs`` maps a stage to the callable that does it."""

    def __init__(
        self,
        claim: Claim,
        recipe: Recipe,
        planned: Sequence[Planned],
        jobs: Mapping[str, type[StageJob]],
        python: str,
        environment: Mapping[str, str],
        *,
        code: str = "",
        again: str = "make demo",
    ) -> None:
        self.claim, self.recipe, self.planned, self.jobs = claim, recipe, planned, jobs
        self.run = claim.run
        self.python, self.environment, self.code, self.again = python, environment, code, again
        self.view = View(self.run, planned)
        self.services: list[Launched] = []
        self._signal = 0

    def go(self) -> None:
        """Run every planned stage that is not done.

        Raises:
            JobError: a stage failed; says which, why, where its log is and what to run next. Stopped: a signal.
        """
        before = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            with self.view:
                for index, planned in enumerate(self.planned):
                    if planned.action == "run" and not planned.step.service:
                        self._do(planned)
                    self._end_services(self.planned[index + 1 :])
        finally:
            self.claim.end_all()
            for number, handler in before.items():
                signal.signal(number, handler)

    def serve(self, planned: Planned) -> Launched:
        """Start a service that outlives this command, and return once its endpoint answers.

        Raises:
            JobError: it ended before, or took longer than ``serve.ready_timeout_s``.
        """
        launched = self._launch(planned, detached=True)
        deadline = time.monotonic() + self.recipe.serve.ready_timeout_s + 30
        try:
            with self.view:
                while not self.run.endpoints():
                    if launched.over:
                        raise self._failure(launched)
                    if time.monotonic() > deadline:
                        raise JobError(f"{planned.name}: no endpoint came up; its log is {launched.log()}")
                    self._pause()
        except BaseException:
            reap.end(self.run.path, planned.name)
            raise
        return launched

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal:  # the second time: no more patience
            reap.kill(self.run.path)
        self._signal = self._signal or number

    def _pause(self) -> None:
        self.view.show()
        time.sleep(POLL_S)
        if self._signal:
            name = signal.Signals(self._signal).name
            self.view.say(f"{name}: ending what was started (once more: kill it)")
            raise Stopped(f"stopped by {name}; every process has been ended; {self.again} goes on from here")

    def _do(self, planned: Planned) -> None:
        """Run one stage to its end, with the services that it needs beside it."""
        up = {s.name for s in self.services}
        for service in self.planned:
            needed = service.name in planned.step.beside and service.name not in up
            if needed and not self.run.endpoints():
                self.services.append(self._launch(service))
        if planned.step.array is not None:
            self._do_array(planned, planned.step.array(self.recipe))
            return
        launched = self._launch(planned)
        while not launched.over:
            self._wait()
        state = self.run.stage(planned.name).state()
        codes, _ = self._exits(launched)
        if any(codes) or state is None or state.status != "done" or state.attempt != launched.attempt:
            raise self._failure(self._root_cause(launched))
        self.view.show()

    def _wait(self) -> None:
        """A moment, unless a service has died meanwhile."""
        dead = [s for s in self.services if s.over]
        if dead:
            raise self._failure(dead[0])
        self._pause()

    def _do_array(self, planned: Planned, tasks: Sequence[str]) -> None:
        """Run every task, a few at a time. What failed is said; the step behind this one finds out what there is."""
        attempt = self._prepare(planned)
        state = StageState(status="running", attempt=attempt, inputs=planned.inputs, code=self.code)
        self.run.stage(planned.name).set_state(state.model_copy(update={"started_at": time.time()}))
        waiting, running = list(enumerate(tasks)), list[Launched]()
        while waiting or running:
            while waiting and len(running) < TASKS_AT_ONCE:
                number, task = waiting.pop(0)
                running.append(self._launch(planned, attempt=attempt, task=task, number=number))
            self._wait()
            for launched in [one for one in running if one.over]:
                running.remove(launched)
                if any(code != 0 for code in self._exits(launched)[0]):
                    self.view.say(str(self._failure(self._root_cause(launched))).splitlines()[0])

    def _prepare(self, planned: Planned) -> int:
        """Put aside what other inputs made, and number this attempt."""
        old = self.run.stage(planned.name).state()
        if planned.discard:
            chain.put_aside(self.run, planned.step)
        return 1 if old is None else old.attempt + 1

    def _root_cause(self, launched: Launched) -> Launched:
        """A client notices its dead server before we do: give the server a moment to be seen dead."""
        deadline = time.monotonic() + 2
        while self.services and time.monotonic() < deadline:
            dead = [s for s in self.services if s.over]
            if dead:
                return dead[0]
            time.sleep(POLL_S)
        return launched

    def _launch(
        self, planned: Planned, detached: bool = False, attempt: int = 0, task: str = "", number: int = 0
    ) -> Launched:
        stage, attempt = self.run.stage(planned.name), attempt or self._prepare(planned)
        if planned.step.service:
            self.run.withdraw_endpoint("0")
        folder = stage.log / str(attempt) / task
        folder.mkdir(parents=True, exist_ok=True)
        asked = StageState(status="submitted", attempt=attempt, inputs=planned.inputs, code=self.code)
        self.run.stage(place(planned.name, task)).set_state(asked)
        marks = reap.mark(self.run.path, f"{planned.name}/{task}" if task else planned.name, attempt)
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        environment = {**self.environment, **meet, **marks}
        executor = Executor(folder, self.python, environment, detached, self.claim.locks[planned.name])
        _, count = chain.ranks_of(self.recipe, planned.name)
        executor.update_parameters(tasks_per_node=count, stderr_to_stdout=True)
        needs = () if planned.step.takes_what_is_there or planned.step.after_any else planned.step.after
        self.view.begun.add(planned.name)
        made = self.jobs[planned.name](str(self.run.path), planned.name, planned.inputs, attempt, needs, task)
        launched = Launched(planned, cast(LocalJob[Any], executor.submit(made)), folder, attempt, task)
        for rank in range(count):
            link = stage.log / f"rank{number + rank}.out"
            link.unlink(missing_ok=True)
            link.symlink_to(launched.log(rank).relative_to(stage.log))
        row: dict[str, Any] = {
            "stage": place(planned.name, task),
            "job_id": launched.job.job_id,
            "attempt": attempt,
            "executor": "local",
        }
        row |= {"logs": [str(launched.log(rank).relative_to(self.run.path)) for rank in range(count)]}
        append_jsonl(self.run.path / "jobs.jsonl", {**row, "after": planned.step.after, "at": time.time()})
        self.view.show()
        return launched

    def _exits(self, launched: Launched) -> tuple[list[int | None], str]:
        """The ranks' exit codes (None: unknown, or ended by us), and what stopped them from outside, if anything."""
        found = read_json(launched.folder / f"{launched.job.job_id}_exit.json")
        return ([None], "") if found is None else (found["codes"], found["stopped"])

    def _failure(self, launched: Launched) -> JobError:
        """Which stage, why, where its log is, what was not started, what to run next; kept in the stage's state too."""
        stage = self.run.stage(launched.place)
        state, (codes, stopped) = stage.state(), self._exits(launched)
        killed = [rank for rank, code in enumerate(codes) if code is not None and code < 0]
        failed = [rank for rank, code in enumerate(codes) if code]
        rank = (killed or failed or [0])[0]
        if stopped:
            why = f"it was stopped ({stopped}; make cancel does that)"
        elif killed:
            name = signal.Signals(-int(codes[rank] or 0)).name
            memory = " (out of memory, perhaps)" if name == "SIGKILL" else ""
            why = f"rank {rank} was killed by {name}{memory}" if len(codes) > 1 else f"it was killed by {name}{memory}"
        elif state is not None and state.reason:
            why = state.reason
        elif codes == [None]:
            why = f"its supervisor died; see {launched.folder / 'supervisor.out'}"
        else:
            why = f"rank {rank} ended with code {codes[rank]}"
        if launched.planned.step.service:
            self.run.withdraw_endpoint("0")  # killed, it could not do so itself
        known = state or StageState(status="failed", attempt=launched.attempt, inputs=launched.planned.inputs)
        stage.set_state(known.model_copy(update={"status": "failed", "reason": why, "ended_at": time.time()}))
        left = [p.name for p in self.planned if p.action == "run" and not p.step.service and not self._done(p)]
        left = [name for name in left if name != launched.name]
        name = " ".join(filter(None, [launched.name, launched.task]))
        lines = [f"{name} failed after {time.time() - launched.began:.0f} s: {why}"]
        tail = [line for line in _tail(launched.log(rank), LOG_LINES) if why not in line]
        if tail:
            lines += ["  the last lines of its log:", *(f"    {line}" for line in tail)]
        lines.append(f"  log: {shown(launched.log(rank))}")
        if left:
            lines.append(f"  not done: {', '.join(left)}")
        lines.append(f"  next: mend the cause, then `{self.again}` goes on from here")
        return JobError("\n".join(lines))

    def _done(self, planned: Planned) -> bool:
        state = self.run.stage(planned.name).state()
        return state is not None and state.status == "done" and state.inputs == planned.inputs

    def _end_services(self, rest: Sequence[Planned]) -> None:
        needed = {name for p in rest if p.action == "run" for name in p.step.beside}
        for service in [s for s in self.services if s.name not in needed]:
            self.services.remove(service)
            reap.end(self.run.path, service.name)
            mark_over(self.run, service.name, "done")


def _free_port() -> int:
    """A port that nobody uses now; the ranks meet there a moment later."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tail(path: Path, lines: int) -> list[str]:
    """The last lines of a log, without submitit's own."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    kept = [
        line.rstrip() for line in text[-20000:].splitlines() if line.strip() and " submitit " not in f" {line[:40]}"
    ]
    return kept[-lines:]
