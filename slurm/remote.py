"""The chain on Slurm: each stage a job (or an array), linked to those that it waits for.

A link by job id is made only while slurmctld knows the job: on a forgotten id ``afterok`` counts as fulfilled. What a
stage needs besides is decided from its done-marker when it is submitted, and checked again when it starts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from octupus.config import Recipe
from octupus.errors import ConfigError
from octupus.runs import START, Run, StageState
from slurm import chain, cluster
from slurm.chain import Planned, Step
from slurm.cluster import KEEPER, Cluster
from slurm.ledger import Ledger, Submission
from slurm.queue import Job, Queue
from slurm.stage import StageJob, place

ROOT = Path(__file__).resolve().parents[1]
BFCL_PYTHON = "OCTUPUS_BFCL_PYTHON"
ENDLESS = 1_000_000
"""How often a time limit may requeue a job: what makes no progress is stopped by the keeper, not by counting."""


def environment(run: Run, code: str, where: Cluster) -> dict[str, str]:
    """What every job gets: modules from the snapshot, BFCL's interpreter from the checkout, the cluster's own."""
    paths = [str(run.path / "code" / code), *filter(None, [where.env.get("PYTHONPATH")])]
    bfcl = os.environ.get(BFCL_PYTHON) or str(ROOT / ".venv-bfcl" / "bin" / "python")
    known = {BFCL_PYTHON: bfcl} if Path(bfcl).exists() else {}
    if where.executor == "slurm":
        known |= {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "PYTHONUTF8": "1",
            "OCTUPUS_RUNS": str(run.path.parent),
        }
    return {**known, **where.env, "PYTHONPATH": os.pathsep.join(paths)}


@contextmanager
def outside() -> Iterator[None]:
    """The environment of a login node, also inside a job: where Slurm's configuration is stays known."""
    from submitit.helpers import clean_env

    kept = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    with clean_env(extra_names=(START,)):
        os.environ.update(kept)
        yield


def jobs_of(one: Submission | None, found: Mapping[str, Job]) -> list[Job]:
    """The jobs of a submission that Slurm still knows; another's who got the same id are not its."""
    if one is None:
        return []
    known = [found[job_id] for job_id in one.job_ids() if job_id in found]
    return [job for job in known if job.name == one.name]


def progress_of(run: Run, one: Submission) -> float:
    """How far a stage has come, its tasks together, over all attempts."""
    found = [run.stage(where).progress() for where in {one.stage, *(place(one.stage, task) for task in one.tasks)}]
    return sum(progress.done for progress in found if progress is not None)


def alive(jobs: Sequence[Job]) -> list[Job]:
    """Those that run or will."""
    return [job for job in jobs if not job.over and job.reason != "DependencyNeverSatisfied"]


def told(jobs: Sequence[Job]) -> str:
    """``job 17, RUNNING on node1``"""
    if not jobs:
        return "its scores are on their way"
    states = sorted({f"{job.state}{f' on {job.nodes}' if job.nodes else ''}" for job in jobs})
    return f"job {jobs[0].array}, {'; '.join(states)}"


def consider(
    planned: Sequence[Planned], ledger: Ledger, found: Mapping[str, Job], goals: Collection[str] | None
) -> list[Planned]:
    """The plan in the light of what Slurm knows: what is at work is waited for, what it calls failed is not believed.

    Raises:
        ConfigError: a stage is at work that the plan would make anew, or from other inputs; or one that ``goals`` need,
            but do not name, was submitted before and has not succeeded.
    """
    made = list[Planned]()
    for p in planned:
        one = ledger.newest.get(p.name)
        mine = jobs_of(one, found)
        at_work, state = alive(mine), ledger.run.stage(p.name).state()
        if one is not None and (at_work or _scored_later(p.step, ledger, found)):
            if p.discard or (not p.step.service and one.inputs != p.inputs):
                raise ConfigError(
                    f"run {ledger.run.name}: {p.name} is at work from other inputs ({told(mine)}): wait, stop it with "
                    f"make cancel RUN={ledger.run.name} STAGE={p.name}, or give this one another name: RUN=..."
                )
            p = replace(p, action="link", why=f"at work: {told(mine)}")
        elif p.action == "reuse" and state is not None:
            wrong = [job for job in mine if job.id == state.job and job.over and not job.succeeded]
            if wrong:
                p = replace(
                    p, action="run", why=f"it says done, but Slurm calls its job {wrong[0].id} {wrong[0].state}"
                )
        if p.action == "run" and one is not None and goals is not None and p.name not in goals:
            raise ConfigError(_unproven(p, one, state, ledger.run))
        made.append(p)
    return made


def _unproven(p: Planned, one: Submission, state: StageState | None, run: Run) -> str:
    """Why a stage that others need cannot be built on, and what to run."""
    why = "" if state is None else p.why if state.status == "done" else f"{state.status} {state.reason}".strip()
    return (
        f"run {run.name}: {p.name} was submitted as job {one.job_id} and has not succeeded"
        f"{f' ({why})' if why else ''}; its log is in {run.stage(p.name).log}. To go on from there: "
        f"make {p.name} RUN={run.name}, and then this command again"
    )


def _scored_later(step: Step, ledger: Ledger, found: Mapping[str, Job]) -> bool:
    """Whether the step that says what an array came to is still to come."""
    after = [one for one in chain.CHAIN if step.array is not None and one.after_any and step.name in one.after]
    return any(alive(jobs_of(ledger.newest.get(one.name), found)) for one in after)


@dataclass(frozen=True)
class Remote:
    """Submits the stages of one run. ``jobs`` maps a stage to the callable that does it."""

    recipe: Recipe
    where: Cluster
    ledger: Ledger
    queue: Queue
    jobs: Mapping[str, type[StageJob]]
    steps: Sequence[Step] = chain.CHAIN

    @property
    def run(self) -> Run:
        return self.ledger.run

    def submit(self, planned: Sequence[Planned], code: str, found: Mapping[str, Job]) -> list[Submission]:
        """Submit every planned stage that is to run, in their order."""
        made = list[Submission]()
        running = {p.name for p in planned if p.action == "run"}
        for p in planned:
            if p.action != "run":
                continue
            state = self.run.stage(p.name).state()
            if p.discard:
                chain.put_aside(self.run, p.step)
            fresh = {one.stage: one for one in made}
            linked = self.linked(p.step, {*fresh}, found)
            proven = () if p.step.takes_what_is_there else p.step.after
            needs = (
                () if p.step.after_any else tuple(dict.fromkeys([*proven, *(n for n in linked if n in p.step.after)]))
            )
            asked = Submission(
                stage=p.name,
                job_id="",
                attempt=0 if state is None else state.attempt,
                tasks=chain.tasks_of(self.recipe, p.name),
                inputs=p.inputs,
                code=code,
                cluster=self.where.name,
                needs=needs,
                until=last_user(p.step, planned) if p.step.service else "",
                links={name: self.ledger.newest[name].job_id for name in linked},
            )
            try:
                made.append(self.send(asked))
            except ConfigError:
                self._take_back(made, f"Slurm refuses {p.name}")
                raise
        assert {one.stage for one in made} == running
        return made

    def _take_back(self, made: Sequence[Submission], why: str) -> None:
        """Half a chain is none: what was submitted already does not start."""
        for one in made:
            for job_id in one.job_ids():
                self.ledger.end(job_id, why)
            for where in {one.stage, *(place(one.stage, task) for task in one.tasks)}:
                state = self.run.stage(where).state()
                if state is not None:
                    over = {"status": "failed", "reason": f"cancelled: {why}", "ended_at": time.time()}
                    self.run.stage(where).set_state(state.model_copy(update=over))
        self.queue.cancel([one.job_id for one in made])

    def linked(self, step: Step, fresh: Collection[str], found: Mapping[str, Job]) -> list[str]:
        """The stages at work that a step has to wait for; ``fresh``: submitted so lately that ``found`` lacks them.

        One that takes what is there waits for whatever model is on its way.
        """

        def coming(names: Iterable[str]) -> list[str]:
            return [n for n in names if n in fresh or alive(jobs_of(self.ledger.newest.get(n), found))]

        direct = coming(step.after)
        if not direct and step.takes_what_is_there and step.after:
            before = {one.name for one in chain.upstream(step.after, self.steps)}
            direct = coming(one.name for one in self.steps if one.name in before and not one.service)
        return [*direct, *coming(step.beside)]

    def send(self, last: Submission, exclude: str = "") -> Submission:
        """Submit what ``last`` describes, as the attempt after it, and write it down.

        Raises:
            ConfigError: Slurm refuses it; says what it said.
        """
        attempt, stage = last.attempt + 1, self.run.stage(last.stage)
        step = next((one for one in self.steps if one.name == last.stage), None)
        folder = stage.log / str(attempt)
        folder.mkdir(parents=True, exist_ok=True)
        asked = StageState(status="submitted", attempt=attempt, inputs=last.inputs, code=last.code)
        for where in {last.stage, *(place(last.stage, task) for task in last.tasks)}:
            self.run.stage(where).set_state(asked)
        if step is not None and step.service:
            for task in last.tasks or ("0",):
                self.run.withdraw_endpoint(task.removeprefix("replica"))
        requeued = self.where.resources(last.stage).requeue
        calls = [
            self.jobs[last.stage](
                str(self.run.path), last.stage, last.inputs, attempt, last.needs, task, last.code, requeued
            )
            for task in last.tasks or ("",)
        ]
        parameters = self._parameters(last, exclude)
        try:
            job_id, logs = _sbatch(folder, cluster.python(self.where), parameters, calls)
        except Exception as error:
            for where in {last.stage, *(place(last.stage, task) for task in last.tasks)}:
                over = {"status": "failed", "reason": f"Slurm refused it: {error}", "ended_at": time.time()}
                self.run.stage(where).set_state(asked.model_copy(update=over))
            raise
        one = last.model_copy(
            update={
                "job_id": job_id,
                "attempt": attempt,
                "exclude": exclude,
                "name": parameters["job_name"],
                "logs": tuple(str(log.relative_to(self.run.path)) for log in logs),
                "done": progress_of(self.run, last),
                "at": time.time(),
            }
        )
        self.ledger.add(one)
        for number, log in enumerate(logs):
            link = stage.log / f"rank{number}.out"
            link.unlink(missing_ok=True)
            link.symlink_to(log.relative_to(stage.log))
        return one

    def _parameters(self, last: Submission, exclude: str) -> dict[str, Any]:
        values = environment(self.run, last.code, self.where)
        # Of several servers the first: ``after:`` an array waits until each of its tasks has had its GPUs.
        first = {one.job_id: next(iter(one.job_ids())) for one in self.ledger.newest.values() if one.stage == "serve"}
        links = dependency(self.steps, last.stage, {name: first.get(i, i) for name, i in last.links.items()})
        made = cluster.slurm_parameters(self.where, self.recipe, last.stage, values, links)
        made.pop("map_count", None)
        nodes = ",".join(filter(None, [made.get("exclude"), exclude]))
        named = {"job_name": job_name(self.run, last.stage)}
        return {**made, **named, **({"exclude": nodes} if nodes else {})}


def job_name(run: Run, stage: str) -> str:
    """By which two runs of a recipe are told apart in squeue."""
    return f"{run.name}-{stage}"


def dependency(steps: Sequence[Step], stage: str, links: Mapping[str, str]) -> str | None:
    """``after:<server>,afterok:<stage2>``; None where it waits for nothing."""
    by_name = {step.name: step for step in steps}
    kind = "afterany" if stage in by_name and by_name[stage].after_any else "afterok"
    services = [job_id for name, job_id in links.items() if by_name[name].service]
    others = [job_id for name, job_id in links.items() if not by_name[name].service]
    parts = [":".join([word, *ids]) for word, ids in (("after", services), (kind, others)) if ids]
    return ",".join(parts) or None


def last_user(service: Step, planned: Sequence[Planned]) -> str:
    """The last stage of a plan that needs a service: the one that says what an array came to, where there is one."""
    users = {p.name for p in planned if service.name in p.step.beside}
    users |= {p.name for p in planned if p.step.after_any and users & {*p.step.after}}
    return next((p.name for p in reversed(planned) if p.name in users), "")


def _sbatch(
    folder: Path, python: str, parameters: Mapping[str, Any], calls: Sequence[StageJob]
) -> tuple[str, list[Path]]:
    """The job's id, and the log of each rank (of an array: of each task)."""
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError

    class Executor(SlurmExecutor):  # type: ignore[misc]
        _throttling = 0.0  # a chain is ten submissions

    with outside():
        executor = Executor(folder, max_num_timeout=ENDLESS, python=python)
        executor.update_parameters(**parameters)
        try:
            made = executor.submit_array(calls)
        except FailedJobError as error:
            why = f"Slurm refuses {parameters['job_name']}: {str(error).strip()}"
            raise ConfigError(f"{why}; mend the cluster file, or what Slurm names") from error
    if len(made) > 1:
        return str(made[0].job_id).partition("_")[0], [Path(job.paths.stdout) for job in made]
    return str(made[0].job_id), [Path(made[0].task(rank).paths.stdout) for rank in range(made[0].num_tasks)]


def keeper(remote: Remote, code: str, found: Mapping[str, Job]) -> Submission | None:
    """Submit the job that watches the chain, unless one is at work or the cluster file wants none."""
    last = remote.ledger.newest.get(KEEPER)
    watching = last is not None and last.job_id not in remote.ledger.ended and alive(jobs_of(last, found))
    if remote.where.keeper is None or watching:
        return None
    attempt = last.attempt if last else 0
    return remote.send(Submission(stage=KEEPER, job_id="", attempt=attempt, code=code, cluster=remote.where.name))
