"""The stages as jobs: what each of them does. How any job records, beats and fails is slurm/stage.py's."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from eval.endpoint import BEFORE
from octupus.config import Recipe
from octupus.errors import ConfigError, JobError, OctupusError
from octupus.runs import Run
from slurm import service
from slurm.apart import run_apart
from slurm.beside import serve_command, served
from slurm.inside import slurm_id
from slurm.stage import StageJob, frozen, model_to_serve, place


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
    """One worker: answers shards that it claims. Where our own server is the engine, it runs beside this job."""

    def work(self, recipe: Recipe, run: Run) -> dict[str, Any]:
        from octupus.teacher import run as teacher

        number = int(self.task.removeprefix("worker") or 0)
        if recipe.teacher.engine != "server":
            return teacher.work(recipe, run, number, self.place)
        with teacher_server(recipe, run, self.place) as url:
            args = {**recipe.teacher.engine_args, "base_url": url}
            section = recipe.teacher.model_copy(update={"engine_args": args})
            return teacher.work(recipe.model_copy(update={"teacher": section}), run, number, self.place)


@contextmanager
def teacher_server(recipe: Recipe, run: Run, place: str) -> Iterator[str]:
    """Our server over the teacher's model, published in a folder of its own; gives its URL.

    Raises:
        ConfigError: a model that cannot be had, an unknown key. JobError: it did not come up.
    """
    from octupus.serve.__main__ import resolve
    from octupus.teacher.endpoint import settings

    section, home = settings(recipe.teacher).serve, Run(run.stage(place).path)
    model = resolve(str(recipe.teacher.model))
    anywhere = section.model_copy(update={"port": 0, "host": section.host or "127.0.0.1"})
    dialect = [] if (model / "wire.json").is_file() else ["--dialect", "qwen"]
    command = [*serve_command(anywhere, model, home), *dialect]
    with served(command, home, "0", run.stage("teacher").log / f"server-{home.name}.out", section.ready_timeout_s):
        yield f"{home.endpoints()['0'].url}/v1"


class MergeJob(StageJob):
    """What the teacher's workers came to; whether all was answered shows here, and marks ``teacher``."""

    def work(self, recipe: Recipe, run: Run) -> dict[str, Any]:
        from octupus.teacher import run as teacher

        with closing(run, "teacher") as outputs:
            outputs.update(teacher.merge(recipe, run))
        return outputs


@contextmanager
def closing(run: Run, name: str) -> Iterator[dict[str, Any]]:
    """Mark the stage whose tasks are looked at done, or failed with the reason; an error in ``outputs`` is one too."""
    stage, outputs = run.stage(name), dict[str, Any]()
    state = stage.state()

    def mark(**told: Any) -> None:
        if state is not None:
            stage.set_state(state.model_copy(update={**told, "outputs": outputs, "ended_at": time.time()}))

    try:
        yield outputs
    except OctupusError as error:
        mark(status="failed", reason=str(error))
        raise
    if outputs.get("errors"):
        reason = f"{outputs['errors']} entries ended in an error; the same command asks them again"
        mark(status="failed", reason=reason)
    else:
        mark(status="done", reason="")


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
    """Serves the newest finished model until it is told to stop; as a task of an array, one replica of several."""

    def work(self, recipe: Recipe, run: Run) -> dict[str, Any]:
        model = model_to_serve(recipe, run)
        print(f"serving {model}", flush=True)
        if slurm_id():
            told = partial(service.asked_to_end, run, slurm_id())
            ended_by = run_apart(told, serve_in, run, on_a_free_port(recipe), model, self.place)
            if ended_by == signal.SIGUSR2:
                signal.raise_signal(signal.SIGUSR2)  # the time limit, or preemption: submitit has it requeued
        else:
            serve_in(run, recipe, model, self.place)
        return {"model": str(model.relative_to(run.path)) if model.is_relative_to(run.path) else str(model)}


def serve_in(run: Run, recipe: Recipe, model: Path, place: str) -> int:
    """Serve until a signal ends it, whose number this is; ``place`` says which replica it is."""
    from octupus.serve import app

    return app.run(recipe, run, model, place.partition("replica")[2] or "0", run.stage(place))


def on_a_free_port(recipe: Recipe) -> Recipe:
    """On a node that is shared the recipe's port may be somebody else's: any other will do, for it is published."""
    from octupus.serve.operate import listen

    try:
        listen(recipe.serve.host, recipe.serve.port).close()
    except ConfigError as error:
        print(f"{error}: taking a free one", flush=True)
        return recipe.model_copy(update={"serve": recipe.serve.model_copy(update={"port": 0})})
    return recipe


class BaselineJob(StageJob):
    """Held-out accuracy before training: serves what surgery made, beside itself, for as long as it is asked."""

    def work(self, recipe: Recipe, run: Run) -> dict[str, Any]:
        from eval import heldout

        command = [sys.executable, "-P", "-m", "slurm.jobs", str(run.path), str(run.path / "surgery/model"), BEFORE]
        log = run.stage(self.stage).log / "server.out"
        with served(command, run, BEFORE, log, recipe.serve.ready_timeout_s):
            return heldout.run(recipe, run, "before")


class BfclJob(StageJob):
    """One task of what is asked of the endpoint: the held-out conversations, or a group of BFCL's categories."""

    def work(self, recipe: Recipe, run: Run) -> dict[str, Any]:
        from eval import bfcl, heldout

        if slurm_id() and recipe.bfcl.url is None:
            service.await_endpoint(run)
        if self.task == "heldout":
            return heldout.run(recipe, run, "after")
        return bfcl.generate(recipe, run, self.task or None)


class ScoreJob(StageJob):
    """What the tasks of ``bfcl`` came to. Tasks only ask; whether all was answered shows here, and marks ``bfcl``."""

    def work(self, recipe: Recipe, run: Run) -> dict[str, Any]:
        from eval import bfcl

        failed = True
        try:
            with closing(run, "bfcl") as outputs:
                self._check_tasks(recipe, run)
                outputs.update(bfcl.score(recipe, run))
            failed = False
        finally:
            if slurm_id():
                service.release_from(run, self.stage, failed)
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
    "merge": MergeJob,
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
