"""What the stages of a run are doing: its folder, its ledger and Slurm put together, one row a stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from octupus.runs import STALE_AFTER_S, Heartbeat, Run, StageState
from slurm import chain, cluster, reap, reasons, remote
from slurm.chain import Step
from slurm.cluster import KEEPER
from slurm.ledger import Ledger, Submission
from slurm.queue import Job, Queue
from slurm.stage import Frozen, frozen, place
from slurm.view import Row, clock, row, task_rows

HELD = ("JobHeldUser", "JobHeldAdmin", "JobHoldMaxRequeue", "launch failed requeued held")
HERE = "the same make command goes on from here"


@dataclass(frozen=True)
class Look:
    """One run as it was read; ``found`` is what Slurm knows about its jobs, None where it was not asked."""

    run: Run
    frozen: Frozen
    ledger: Ledger
    doubted: Set[str] = frozenset()
    """The ids of jobs that the folder alone does not tell the end of."""
    found: Mapping[str, Job] | None = None

    @staticmethod
    def into(run: Run) -> Look:
        """The folder alone.

        Raises:
            JobError: it cannot be read.
        """
        look = Look(run, frozen(run), Ledger(run))
        doubted = {job_id for one in look.ledger.newest.values() for job_id in look._doubted(one)}
        return replace(look, doubted=doubted)

    @staticmethod
    def at(runs: Sequence[Run], queue: Queue | None = None) -> list[Look]:
        """All runs with one question to Slurm, and with none where no job is in doubt.

        Raises:
            JobError: a folder that cannot be read; Silent: Slurm does not answer.
        """
        return Look.asked([Look.into(run) for run in runs], queue)

    @staticmethod
    def asked(read: Sequence[Look], queue: Queue | None = None) -> list[Look]:
        """Raises:
        Silent: Slurm does not answer.
        """
        asked = {job_id for look in read for job_id in look.doubted}
        found = (queue or Queue()).jobs(asked) if asked else {}
        return [replace(look, found=found) for look in read]

    def in_doubt(self, one: Submission) -> bool:
        """Whether the folder alone does not tell the end of each of its jobs."""
        return not self.doubted.isdisjoint(one.job_ids())

    def _doubted(self, one: Submission) -> list[str]:
        over = {"done", "failed"}
        if one.stage == KEEPER and one.job_id in self.ledger.ended:
            return []
        return [
            job_id
            for job_id, task in one.job_ids().items()
            if (state := self.run.stage(place(one.stage, task)).state()) is None
            or state.attempt != one.attempt
            or state.status not in over
        ]

    @cached_property
    def here(self) -> set[str]:
        """Stages with processes on this machine."""
        return {p.stage.split("/")[0] for p in reap.marked(self.run.path)}

    def rows(self) -> list[Row]:
        """The stages of the chain, and the keeper where there is one."""
        found = [self.row(step) for step in chain.chain_of(self.frozen.recipe)]
        keeper = self.ledger.newest.get(KEEPER)
        if keeper is not None and self._jobs(keeper):
            found.append(self._of_job(row(self.run, Step(KEEPER)), keeper, self._jobs(keeper)[0]))
        return found

    def tasks(self, of: Row) -> list[Row]:
        """The tasks of a running stage that give signs of life, where it has any."""
        steps = [step for step in chain.CHAIN if step.name == of.name and of.status == "running"]
        found = [(one, place(of.name, one.name.strip())) for step in steps for one in task_rows(self.run, step)]
        silent = [(one, self.run.stage(where).silent_s()) for one, where in found]
        return [replace(one, silent_s=s) for one, s in silent if s is not None and s <= STALE_AFTER_S]

    def row(self, step: Step) -> Row:
        """One stage."""
        made, one = row(self.run, step), self.ledger.newest.get(step.name)
        made = replace(made, gpu_hours=self._gpu_hours(step.name))
        if one is None:
            return self._silent(made)
        jobs = self._jobs(one)
        told = made.status in ("submitted", "running") and not self.in_doubt(one)  # each task has, in its folder
        if not jobs and not (told and len(one.tasks) > 1):
            return self._forgotten(replace(made, job=one.job_id), one)
        if len(one.tasks) > 1:
            return self._of_tasks(replace(made, job=one.job_id), one, jobs)
        return self._of_job(made, one, jobs[0])

    def _jobs(self, one: Submission) -> list[Job]:
        return remote.jobs_of(one, self.found or {})

    def _silent(self, made: Row) -> Row:
        """A stage of this machine that gives no sign of life says so."""
        if made.status != "running" or made.name in self.here:
            return made
        silent = self.run.stage(made.name).silent_s()
        if silent is not None and silent <= STALE_AFTER_S:
            return made
        told = f"no sign of life for {clock(silent)}" if silent is not None else "no sign of life"
        return replace(made, status="dead", progress=None, reason=f"{told}; {HERE}")

    def _forgotten(self, made: Row, one: Submission) -> Row:
        """No job is in doubt, or Slurm knows it no longer: the folder is all there is."""
        if self.found is None or not self.in_doubt(one) or made.status not in ("submitted", "running"):
            return made
        return replace(made, status="dead", reason=f"Slurm has forgotten job {one.job_id}; {HERE}", progress=None)

    def _of_job(self, made: Row, one: Submission, job: Job) -> Row:
        made = replace(made, job=job.id, nodes=job.nodes)
        if not job.over and not job.running:
            return self._queued(replace(made, seconds=None, progress=None), one, job)
        if job.running:
            made = replace(made, seconds=job.elapsed_s, limit_s=job.limit_s)
            return self._running(made, one, job)
        if made.status in ("submitted", "running"):
            why = reasons.ended(job.state, job.exit_code, job.signal)
            status = "done" if job.succeeded and one.stage == KEEPER else "failed"
            return replace(made, status=status, reason="" if status == "done" else f"its job {why}")
        return made

    def _queued(self, made: Row, one: Submission, job: Job) -> Row:
        status = "dead" if job.reason == "DependencyNeverSatisfied" else "queued"
        status = "stuck" if any(word in job.reason for word in HELD) else status
        waits = [f"{stage} ({job_id})" for stage, job_id in one.links.items()]
        told = f"for {', '.join(waits)}" if job.reason == "Dependency" and waits else reasons.told(job.reason)
        return replace(made, status=status, reason=told)

    def _running(self, made: Row, one: Submission, job: Job) -> Row:
        stage = self.run.stage(one.stage)
        state = stage.state()
        if not self._speaks(state, one, job):
            started = f"started {clock(job.elapsed_s)} ago, has said nothing yet" if one.stage != KEEPER else ""
            return replace(made, status="starting" if started else "running", reason=started, progress=None)
        silent = stage.silent_s()
        if silent is not None and silent > STALE_AFTER_S and made.status == "running":
            return replace(
                made, status="stuck", silent_s=silent, reason=f"no sign of life, though Slurm says {job.state}"
            )
        return replace(made, silent_s=silent)

    def _speaks(self, state: StageState | None, one: Submission, job: Job) -> bool:
        """Whether the job that runs now, and not an earlier start of it, has said that it runs."""
        return state is not None and state.attempt == one.attempt and state.job == job.id

    def _of_tasks(self, made: Row, one: Submission, jobs: Sequence[Job]) -> Row:
        """An array: its tasks counted by what they do; that of the most urgent ones is the array's state."""
        states = {task: self._task(one, job_id, task) for job_id, task in one.job_ids().items()}
        count = Counter(status for status, _ in states.values())
        order = ("running", "queued", "dead", "stuck", "failed", "done")
        first = next(status for status in order if count[status])
        told = ", ".join(f"{count[status]} {status}" for status in order if count[status])
        why = next((reason for status, reason in states.values() if status == first and reason), "")
        running = [job for job in jobs if job.running]
        ids = one.job_ids()
        silent = [self.run.stage(place(one.stage, ids[job.id])).silent_s() for job in running]
        return replace(
            made,
            status=made.status if made.status == "done" else first,
            reason=f"{told}{f' ({why})' if why and first != 'running' else ''}",
            nodes=_together(job.nodes for job in running),
            seconds=max((job.elapsed_s for job in running), default=made.seconds),
            limit_s=next((job.limit_s for job in running), None),
            silent_s=min((s for s in silent if s is not None), default=None),
        )

    def _task(self, one: Submission, job_id: str, task: str) -> tuple[str, str]:
        state, job = self.run.stage(place(one.stage, task)).state(), (self.found or {}).get(job_id)
        mine = state if state is not None and state.attempt == one.attempt else None
        if mine is not None and mine.status in ("done", "failed"):
            return mine.status, mine.reason
        if job is None or job.name != one.name:
            return "dead", "Slurm has forgotten it"
        if job.over:
            return "failed", f"its job {reasons.ended(job.state, job.exit_code, job.signal)}"
        if job.running:
            return "running", ""
        return ("dead" if job.reason == "DependencyNeverSatisfied" else "queued"), reasons.told(job.reason)

    def _gpu_hours(self, name: str) -> float:
        """As the jobs of a stage, and of its tasks, have counted themselves, over all attempts."""
        places = [self.run.path / name, *(self.run.path / name / "tasks").glob("*")]
        hearts: list[Heartbeat | None] = [self.run.stage(str(p.relative_to(self.run.path))).heartbeat() for p in places]
        return sum(heart.gpu_s for heart in hearts if heart is not None) / 3600

    def next(self, rows: Sequence[Row]) -> str:
        """What a person can do now; empty where there is nothing."""
        on = f"RUN={self.run.name}" + (f" CLUSTER={self.frozen.cluster}" if self.frozen.cluster != "local" else "")
        by = {r.name: r for r in rows}
        bad = [r for r in rows if r.status in ("failed", "dead", "stuck") and r.name != KEEPER]
        if bad:
            if bad[0].status == "stuck" and self._kept(by):
                return f"nothing; the keeper (job {by[KEEPER].job}) ends {bad[0].name} and starts it again"
            asked = [r.name for r in rows if r.name in self.ledger.newest or r.name == bad[0].name]
            todo = [n for n in asked if by[n].status not in ("done", "running", "starting", "queued") and n != KEEPER]
            todo = [n for n in todo if n != "score"]
            first = (
                f"make cancel RUN={self.run.name}, then "
                if any(r.status in ("dead", "stuck") and r.job for r in bad)
                else ""
            )
            read = f"read {bad[0].log}, " if Path(bad[0].log).exists() else ""
            log = f"{read}mend the cause, then " if bad[0].status == "failed" else first
            return f"{log}make {' '.join(todo)} {on}"
        running = [r.name for r in rows if r.status in ("running", "starting") and r.name != KEEPER]
        if running:
            return f"make logs RUN={self.run.name} STAGE={running[0]}"
        if any(r.status in ("queued", "submitted") for r in rows):
            return "nothing; it starts by itself"
        page = self.run.path / "report" / "index.html"
        if rows and all(r.status == "done" for r in rows if r.name not in (KEEPER, "serve")):
            return f"open {page}" if page.is_file() else f"make report RUN={self.run.name}"
        return ""

    def _kept(self, by: Mapping[str, Row]) -> bool:
        where = cluster.frozen_in(self.run, self.frozen.cluster)
        return KEEPER in by and by[KEEPER].status == "running" and where.keeper is not None


def _together(nodes: Iterable[str]) -> str:
    """Distinct node lists, as Slurm writes each."""
    return ",".join(sorted({n for n in nodes if n}))
