"""The stages as jobs: ordinary callables that run anywhere, with or without Slurm.

A job says in ``state.json`` that it runs, that it is done, or why it failed; it beats while it works, and what it
resumes from is found by the stage itself. Every rank of a job is one call.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from octupus.config import Recipe, Section
from octupus.errors import Interrupted, JobError, Lost, OctupusError, Superseded, explain
from octupus.publish import read_json
from octupus.runs import Run, Stage, StageState, Start
from slurm.inside import gpus_held, join_ranks, restarts, slurm_id

REQUEUE_S = 120.0
"""How long the other ranks wait for the requeue that the first one asks for; it ends them."""
TIME_IS_UP = "told to end by its time limit or a preemption"
MODELS = ("stage2/export", "stage1/export", "surgery/model")


class Frozen(Section):
    """``recipe.json``: what a run was asked to do, and with which code."""

    recipe: Recipe
    cluster: str = "local"
    code: str = ""
    """Digest and folder name of the snapshot under ``code/``."""
    git_revision: str = ""
    versions: dict[str, str] = Field(default_factory=dict)


def frozen(run: Run) -> Frozen:
    """What the run folder was made for.

    Raises:
        JobError: no such run, or one that this version of the code cannot read.
    """
    raw = read_json(run.path / "recipe.json")
    if raw is None:
        raise JobError(f"{run.path} holds no recipe.json: no run of that name; `make status` lists the runs there are")
    try:
        return Frozen.model_validate(raw)
    except ValidationError as error:
        raise JobError(
            f"{explain(error, Frozen, str(run.path / 'recipe.json'))}; it was made by another version of the code: "
            "use that version, or name a recipe (RECIPE=...) to go on with this one"
        ) from error


def place(stage: str, task: str = "") -> str:
    """Where a job's state is kept, below the run folder."""
    return f"{stage}/tasks/{task}" if task else stage


def model_to_serve(recipe: Recipe, run: Run) -> Path:
    """``serve.model`` where the recipe names one, else the model of the last finished stage that has one.

    Raises:
        ConfigError: ``serve.model`` cannot be had. JobError: no stage is finished.
    """
    if recipe.serve.model is not None:
        from octupus.serve.__main__ import resolve

        return resolve(recipe.serve.model)
    return newest_model(run)


def newest_model(run: Run) -> Path:
    """The model of the last finished stage that has one.

    Raises:
        JobError: none of them is finished.
    """
    for place in MODELS:
        state = run.stage(place.split("/")[0]).state()
        if state is not None and state.status == "done":
            return run.path / place
    known = "" if (run.path / "recipe.json").is_file() else "RECIPE=... "
    raise JobError(f"run {run.name} has no finished model yet; make one with: make stage1 stage2 {known}RUN={run.name}")


@dataclass(frozen=True)
class StageJob:
    """One attempt at one stage. ``inputs`` is the hash that the done-marker will carry."""

    run: str
    stage: str
    inputs: str = ""
    attempt: int = 0
    """0: the one after the last."""
    needs: tuple[str, ...] = ()
    """Stages whose done-markers must stand when it starts."""
    task: str = ""
    """Which task of an array this is."""
    code: str = ""
    """Digest of the snapshot that it runs from."""
    requeued: bool = True
    """Whether Slurm may start it again."""

    @property
    def place(self) -> str:
        """Where its state is kept, below the run folder."""
        return place(self.stage, self.task)

    def work(self, recipe: Recipe, run: Run) -> dict[str, Any]:
        """The stage itself; returns its outputs (every rank calls it, the first one's count)."""
        raise NotImplementedError

    def __call__(self) -> None:
        """Raises SystemExit with the error's code where the user can mend it, the error itself where it is a bug."""
        if threading.current_thread() is threading.main_thread():
            # submitit ignores SIGTERM. Here it ends the job; a stage that wants to finish something catches it itself.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        join_ranks()
        run = Run(self.run)
        stage = run.stage(self.place)
        start = Start(self.attempt or Start.of(stage.state()).attempt + 1, restarts())
        try:
            with start.entered(stage), self._recording(run, start) as record:
                value = frozen(run)
                self._check_needs(run)
                self._check_budget(value, run)
                record.update(self.work(value.recipe, run) or {})
        except OctupusError as error:
            print(f"{self.place} failed: {error}", file=sys.stderr, flush=True)
            if isinstance(error, Interrupted) and os.environ.get("RANK", "0") != "0" and slurm_id():
                time.sleep(REQUEUE_S)  # an exit now would have srun end the first rank, which is asking for the requeue
            raise SystemExit(error.exit_code) from None

    def checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """For submitit, before it has Slurm requeue the job: the same job again, which finds its own way on.

        Raises:
            Lost: Slurm may not start it again, or cannot be told to from here.
        """
        if slurm_id() and not (self.requeued and shutil.which("scontrol")):
            why = "requeue is off in the cluster file" if not self.requeued else "there is no scontrol here"
            raise Lost(f"{TIME_IS_UP}, and it is not started again ({why}): the same make command goes on from here")
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _check_needs(self, run: Run) -> None:
        for name in self.needs:
            state = run.stage(name).state()
            if state is None or state.status != "done":
                found = "never ran" if state is None else f"is {state.status} {state.reason}".strip()
                raise JobError(f"{self.stage} needs {name}, which {found}; run: make {name} RUN={run.name}")

    def _check_budget(self, value: Frozen, run: Run) -> None:
        """What Slurm starts again by itself goes no further than the budget."""
        if restarts() and slurm_id():
            from slurm import budget, cluster

            budget.afford(value.recipe, run, cluster.frozen_in(run, value.cluster), [], budget.spent(run))

    @contextmanager
    def _recording(self, run: Run, start: Start) -> Iterator[dict[str, Any]]:
        """The first rank keeps the stage's state and heartbeat; any rank may say that a mistake ended them all."""
        outputs: dict[str, Any] = {}
        stage, first = run.stage(self.place), int(os.environ.get("RANK", "0")) == 0
        state = StageState(
            status="running",
            attempt=start.attempt,
            restart=start.restart,
            job=slurm_id(),
            inputs=self.inputs,
            code=self.code or frozen(run).code,
            started_at=time.time(),
        )
        if first:
            stage.set_state(state)
            self._begin_array(run, state)
        try:
            with stage.beating(first=first, gpus=gpus_held()):
                yield outputs
        except Exception as error:
            self._say_failed(stage, state, error, first)
            raise
        if first:
            over = {"status": "done", "outputs": outputs, "ended_at": time.time()}
            stage.set_state(state.model_copy(update=over))

    def _begin_array(self, run: Run, state: StageState) -> None:
        """The first task that starts says so for the whole stage."""
        whole = run.stage(self.stage).state()
        if self.task and whole is not None and whole.status == "submitted":
            begun = {"status": "running", "started_at": state.started_at}
            run.stage(self.stage).set_state(whole.model_copy(update=begun))

    def _say_failed(self, stage: Stage, state: StageState, error: Exception, first: bool) -> None:
        """A mistake outdoes what follows from it: the other ranks only see that one of them is gone."""
        known, mistake = stage.state(), isinstance(error, OctupusError) and not isinstance(error, Lost)
        told = known is not None and Start.of(known) == Start.of(state) and known.status == "failed" and not known.lost
        if isinstance(error, Superseded) or not (mistake or (first and not told)):
            return
        reason = str(error) if isinstance(error, OctupusError) else f"{type(error).__name__}: {error}"
        over = {"status": "failed", "reason": reason, "lost": not mistake, "ended_at": time.time()}
        stage.set_state(state.model_copy(update=over))
