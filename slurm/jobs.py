"""The stages as jobs: ordinary callables that run anywhere, with or without Slurm.

A job says in ``state.json`` that it runs, that it is done, or why it failed; it beats while it works, and what it
resumes from is found by the stage itself. Every rank of a job is one call.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from octupus.config import Recipe, Section, explain
from octupus.errors import JobError, OctupusError
from octupus.runs import Run, StageState, read_json
from slurm.beside import served

MODELS = ("stage2/export", "stage1/export", "surgery/model")
BEFORE = "before"


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


def join_ranks() -> None:
    """Give torch its variables, from submitit's view of the job; where they are set already, they stay."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return
    from submitit import JobEnvironment

    job = JobEnvironment()
    local = {"LOCAL_RANK": job.local_rank, "LOCAL_WORLD_SIZE": job.num_tasks // job.num_nodes}
    port = random.Random(job.job_id).randint(20000, 60000)
    meet = {"MASTER_ADDR": job.hostnames[0], "MASTER_PORT": port}
    os.environ.update({k: str(v) for k, v in {"RANK": job.global_rank, "WORLD_SIZE": job.num_tasks, **local}.items()})
    for key, value in meet.items():
        os.environ.setdefault(key, str(value))


@dataclass(frozen=True)
class StageJob:
    """One attempt at one stage. ``inputs`` is the hash that the done-marker will carry."""

    run: str
    stage: str
    inputs: str = ""
    attempt: int = 1
    needs: tuple[str, ...] = ()
    """Stages whose done-markers must stand when it starts."""
    task: str = ""
    """Which task of an array this is."""

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
        try:
            with self._recording(run) as record:
                self._check_needs(run)
                record.update(self.work(frozen(run).recipe, run) or {})
        except OctupusError as error:
            print(f"{self.place} failed: {error}", file=sys.stderr, flush=True)
            raise SystemExit(error.exit_code) from None

    def checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """For submitit, before it has Slurm requeue the job: the same job again, which finds its own way on."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(type(self)(self.run, self.stage, self.inputs, self.attempt + 1, self.needs, self.task))

    def _check_needs(self, run: Run) -> None:
        for name in self.needs:
            state = run.stage(name).state()
            if state is None or state.status != "done":
                found = "never ran" if state is None else f"is {state.status} {state.reason}".strip()
                raise JobError(f"{self.stage} needs {name}, which {found}; run: make {name} RUN={run.name}")

    @contextmanager
    def _recording(self, run: Run) -> Iterator[dict[str, Any]]:
        """The first rank keeps the stage's state and heartbeat."""
        outputs: dict[str, Any] = {}
        if int(os.environ.get("RANK", "0")) != 0:
            yield outputs
            return
        stage = run.stage(self.place)
        state = StageState(
            status="running",
            attempt=self.attempt,
            inputs=self.inputs,
            code=frozen(run).code,
            started_at=time.time(),
        )
        stage.set_state(state)
        try:
            with stage.beating():
                yield outputs
        except Exception as error:
            reason = str(error) if isinstance(error, OctupusError) else f"{type(error).__name__}: {error}"
            over = {"status": "failed", "reason": reason, "ended_at": time.time()}
            stage.set_state(state.model_copy(update=over))
            raise
        over = {"status": "done", "outputs": outputs, "ended_at": time.time()}
        stage.set_state(state.model_copy(update=over))


class SurgeryJob(StageJob):
    """Special tokens into the base; before that, where the recipe has none, the scratch base itself."""

    def work(self, recipe: Recipe, run: Run) -> dict[str, Any]:
        from octupus import scratch, surgery

        if recipe.model.scratch is not None:
            from data_recipes.demo import corpus

            base = run.stage("surgery").path / "base"
            print(f"building the scratch base in {base}", flush=True)
            scratch.build(recipe.model.scratch, corpus.texts(recipe), base)
        return surgery.run(recipe, run)


class TeacherJob(StageJob):
    def work(self, recipe: Recipe, run: Run) -> dict[str, Any]:
        from octupus.teacher import run as teacher

        return teacher.run(recipe, run)


class DataJob(StageJob):
    def work(self, recipe: Recipe, run: Run) -> dict[str, Any]:
        from data_recipes import build
        from eval.sample import BfclData

        if recipe.data.decontaminate:
            BfclData.ready()
        return build.run(recipe, run)


class TrainJob(StageJob):
    def work(self, recipe: Recipe, run: Run) -> dict[str, Any]:
        from octupus.train import sft

        name: Literal["stage1", "stage2"] = "stage1" if self.stage == "stage1" else "stage2"
        return sft.run(recipe, run, name)


class ServeJob(StageJob):
    """Serves the newest finished model until it is told to stop."""

    def work(self, recipe: Recipe, run: Run) -> dict[str, Any]:
        from octupus.serve import app

        model = model_to_serve(recipe, run)
        print(f"serving {model}", flush=True)
        app.run(recipe, run, model)
        return {"model": str(model.relative_to(run.path)) if model.is_relative_to(run.path) else str(model)}


class BaselineJob(StageJob):
    """Held-out accuracy before training: serves what surgery made, beside itself, for as long as it is asked."""

    def work(self, recipe: Recipe, run: Run) -> dict[str, Any]:
        from eval import heldout

        others = run.endpoints()
        if others:
            raise JobError(
                f"run {run.name} has an endpoint already ({next(iter(others.values())).url}), which is not that of the "
                f"untrained model: stop it with make cancel RUN={run.name} STAGE=serve"
            )
        command = [sys.executable, "-P", "-m", "slurm.jobs", str(run.path), str(run.path / "surgery/model"), BEFORE]
        log = run.stage(self.stage).log / "server.out"
        with served(command, run, BEFORE, log, recipe.serve.ready_timeout_s):
            return heldout.run(recipe, run, "before")


class BfclJob(StageJob):
    """One task of what is asked of the endpoint: the held-out conversations, or a group of BFCL's categories."""

    def work(self, recipe: Recipe, run: Run) -> dict[str, Any]:
        from eval import bfcl, heldout

        if self.task == "heldout":
            return heldout.run(recipe, run, "after")
        return bfcl.generate(recipe, run, self.task or None)


class ScoreJob(StageJob):
    """What the tasks of ``bfcl`` came to. Tasks only ask; whether all was answered shows here, and marks ``bfcl``."""

    def work(self, recipe: Recipe, run: Run) -> dict[str, Any]:
        from eval import bfcl

        stage = run.stage("bfcl")
        state = stage.state()
        try:
            self._check_tasks(recipe, run)
            outputs = bfcl.score(recipe, run)
        except OctupusError as error:
            if state is not None:
                over = {"status": "failed", "reason": str(error), "ended_at": time.time()}
                stage.set_state(state.model_copy(update=over))
            raise
        if state is not None:
            errors = f"{outputs['errors']} entries ended in an error; the same command asks them again"
            told = {"status": "failed", "reason": errors} if outputs["errors"] else {"status": "done", "reason": ""}
            stage.set_state(state.model_copy(update={**told, "outputs": outputs, "ended_at": time.time()}))
        return outputs

    def _check_tasks(self, recipe: Recipe, run: Run) -> None:
        """Held-out turns are judged as they are asked: where they failed, that is why."""
        state = run.stage(place("bfcl", "heldout")).state()
        if recipe.data.heldout and (state is None or state.status != "done"):
            raise JobError(f"held-out turns: {state.reason if state else 'never asked'}")


class ReportJob(StageJob):
    def work(self, recipe: Recipe, run: Run) -> dict[str, Any]:
        from eval import report

        return report.run(recipe, run)


JOBS: dict[str, type[StageJob]] = {
    "surgery": SurgeryJob,
    "teacher": TeacherJob,
    "data": DataJob,
    "baseline": BaselineJob,
    "stage1": TrainJob,
    "stage2": TrainJob,
    "serve": ServeJob,
    "bfcl": BfclJob,
    "score": ScoreJob,
    "report": ReportJob,
}


def serve_on_any_port(run: Run, model: Path, replica: str) -> int:
    """What :class:`BaselineJob` starts beside itself."""
    from octupus.serve import app

    recipe = frozen(run).recipe
    anywhere = recipe.serve.model_copy(update={"port": 0})
    try:
        app.run(recipe.model_copy(update={"serve": anywhere}), run, model, replica)
    except OctupusError as error:
        print(f"serve: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(serve_on_any_port(Run(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
