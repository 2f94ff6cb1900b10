"""Starts again what Slurm, a node or a hang has ended; stops where a person has to look. All from the run folder.

:meth:`Keeper.step` looks at every stage's newest submission, at what Slurm says about it and at its signs of life, and
does at most one thing. It runs in the foreground (WAIT=1) or as a tiny job of the run; where both do, they take turns.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from octupus.config import Recipe
from octupus.errors import ConfigError, JobError
from octupus.runs import Run, Signs, StageState
from slurm import budget, chain, cluster
from slurm.cluster import KEEPER
from slurm.inside import slurm_id
from slurm.jobs import JOBS
from slurm.ledger import Ledger, Submission, alone
from slurm.queue import Job, Queue
from slurm.remote import Remote, jobs_of, progress_of
from slurm.service import release
from slurm.stage import TIME_IS_UP, StageJob, frozen, place

HELD = ("launch failed requeued held", "JobHoldMaxRequeue", "launch_failed_requeued_held")
"""Slurm's words for a job that it could not start on its node and now holds for ever."""

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT)

Kind = Literal["works", "done", "lost", "unmet", "over"]
Kinds = Mapping[str, Kind]


@dataclass(frozen=True)
class Fate:
    """What has become of a job. ``lost``: not by the user's doing; ``unmet``: what it waited for failed."""

    kind: Kind
    reason: str = ""
    nodes: str = ""
    """Nodes that the next attempt had better not get."""
    tasks: tuple[str, ...] = ()
    """Of an array: those that are lost."""


@dataclass
class Keeper:
    """Watches one run. ``jobs`` maps a stage to the callable that does it."""

    run: Run
    queue: Queue
    jobs: Mapping[str, type[StageJob]] = field(default_factory=lambda: JOBS)
    signs: Signs = field(default_factory=lambda: Signs(patient=True))

    def step(self) -> bool:
        """Look once, and mend what can be mended; False when nothing is at work any more and nothing is to be done."""
        with alone(self.run):
            ledger = Ledger(self.run)
            newest = {name: one for name, one in ledger.newest.items() if name != KEEPER}
            try:
                found = self.queue.jobs({job_id for one in newest.values() for job_id in one.job_ids()})
                fates = {s.name: self.fate(newest[s.name], found, ledger) for s in chain.CHAIN if s.name in newest}
                acted = self._act(ledger, fates, found)
            except (JobError, OSError) as error:
                if isinstance(error, OSError) and error.errno not in UNWRITABLE:
                    raise
                # Slurm is silent, which says nothing about any job; or the disk is full, and somebody will make space.
                print(f"{time.strftime('%H:%M:%S')} {error}; looking again", flush=True)
                return True
            over = not acted and not any(fate.kind == "works" for fate in fates.values())
            if over and slurm_id() and KEEPER in ledger.newest:
                ledger.end(ledger.newest[KEEPER].job_id, "the chain has ended")  # whoever submits now needs another one
            return not over

    def _act(self, ledger: Ledger, fates: Mapping[str, Fate], found: Mapping[str, Job]) -> bool:
        for step in (s for s in chain.CHAIN if s.name in fates):
            fate, one = fates[step.name], ledger.newest[step.name]
            asked = [s.name for s in chain.CHAIN if step.name in s.beside]
            needed = not step.service or not one.until or _any_left(asked, fates)
            if step.service and one.until and fate.kind == "done" and needed:
                fate = Fate("lost", f"job {one.job_id} ended by itself, and {' and '.join(asked)} still need it")
            if fate.kind == "works" and step.service and one.until and not _any_left([*asked, one.until], fates):
                if release(self.run, one.until, self.queue):
                    self._say(step.name, "nobody needs it any more")
            elif fate.kind == "lost" and needed:
                kinds = {name: other.kind for name, other in fates.items()}
                if self._again(ledger, one, fate, found, kinds):
                    return True
            elif fate.kind in ("over", "unmet", "lost"):
                self._note(one, fate.reason)
                waiting = [job.id for job in jobs_of(one, found) if not job.over]
                self.queue.cancel(waiting if fate.kind == "unmet" else [])
        return False

    # ---- what has become of a job

    def fate(self, one: Submission, found: Mapping[str, Job], ledger: Ledger) -> Fate:
        """Of a stage. Of an array: while one task works it works; then it is lost if one is, else over if one is."""
        fates = {
            task: self._fate(one, job_id, task, found.get(job_id), ledger) for job_id, task in one.job_ids().items()
        }
        kinds = {fate.kind for fate in fates.values()}
        order: tuple[Kind, ...] = ("works", "lost", "over", "unmet", "done")
        kind = next(k for k in order if k in kinds)
        first = next(fate for fate in fates.values() if fate.kind == kind)
        lost = tuple(task for task, fate in fates.items() if fate.kind == "lost" and task)
        return replace(first, tasks=lost if kind == "lost" else ())

    def _fate(self, one: Submission, job_id: str, task: str, job: Job | None, ledger: Ledger) -> Fate:
        state = self.run.stage(place(one.stage, task)).state()
        mine = state if state is not None and state.attempt == one.attempt else None
        if job is None or job.name != one.name:
            return self._forgotten(job_id, mine)
        if not job.over:
            return self._alive(one, task, job, mine)
        if job.state == "COMPLETED":
            if _is_service(one.stage) or (mine is not None and mine.status == "done"):
                return Fate("done")
            return Fate("lost", f"job {job.id} ended well, but never said that it was done")
        if job.state == "CANCELLED":
            if job.id in ledger.ended:
                return Fate("lost", ledger.ended[job.id])
            if job.reason == "DependencyNeverSatisfied" or "(failed)" in job.dependency or "(never" in job.dependency:
                return Fate("unmet", f"cancelled: it waited for {', '.join(one.links) or 'a job'}, which failed")
            return Fate("over", f"job {job.id} was cancelled (scancel, make cancel)")
        if job.state in ("OUT_OF_MEMORY", "DEADLINE"):
            hint = "; raise memory_gb of the cluster file" if job.state == "OUT_OF_MEMORY" else ""
            return Fate("over", f"job {job.id}: {job.state}{hint}")
        if job.state == "FAILED" and mine is not None and mine.status == "failed" and not mine.lost:
            return Fate("over", mine.reason)
        why = self._why(job, mine)
        innocent = job.state in ("PREEMPTED", "TIMEOUT") or why.startswith(TIME_IS_UP)
        return Fate("lost", why, "" if innocent else self._suspects(job))

    def _forgotten(self, job_id: str, mine: StageState | None) -> Fate:
        """Slurm knows it no longer: its own word is all there is, and it counts only where it is a last word."""
        if mine is not None and mine.status == "done":
            return Fate("done")
        if mine is not None and mine.status == "failed":
            return Fate("lost" if mine.lost else "over", mine.reason)
        return Fate("over", f"Slurm has forgotten job {job_id}, which never said how it ended; run the command again")

    def _alive(self, one: Submission, task: str, job: Job, mine: StageState | None) -> Fate:
        if not job.running:
            if job.reason == "DependencyNeverSatisfied":
                return Fate("unmet", f"cancelled: it waited for {', '.join(one.links)}, which failed")
            if any(words in job.reason for words in HELD):
                return Fate("lost", f"Slurm could not start job {job.id} and holds it ({job.reason})", job.nodes)
            return Fate("works")
        limits, stage = cluster.frozen_in(self.run, one.cluster).watch, self.run.stage(place(one.stage, task))
        # What ends a server that nobody has asked yet is its time limit: no sign of being stuck.
        if job.restarts > limits.retries and self._stuck(one) and not _is_service(one.stage):
            return Fate("lost", f"Slurm has started job {job.id} {job.restarts} times again, and it came no further")
        silent = stage.silent_s(self.signs)
        if mine is None or mine.job != job.id or mine.restart != job.restarts:  # nothing of this start yet
            if job.elapsed_s > limits.start_s:
                return Fate("lost", f"job {job.id} has run for {job.elapsed_s:.0f} s without a sign of life", job.nodes)
        elif silent is not None and silent > limits.stale_s:
            heart = stage.heartbeat()
            told = f"job {job.id} has given no sign of life for {silent:.0f} s, though Slurm calls it {job.state}"
            return Fate("lost", told, heart.host if heart is not None else "")
        return Fate("works")

    def _why(self, job: Job, mine: StageState | None) -> str:
        if mine is not None and mine.status == "failed" and mine.reason:
            return mine.reason
        how = f"signal {job.signal}" if job.signal else f"exit code {job.exit_code}"
        return f"job {job.id}: {job.state}{f' ({job.reason})' if job.reason else ''}, {how}"

    def _suspects(self, job: Job) -> str:
        """The node of a job that had one; of several, those that Slurm itself calls unfit."""
        return job.nodes if job.nodes and not {"[", ","} & {*job.nodes} else self.queue.unfit(job.nodes)

    # ---- what is done about it

    def _again(self, ledger: Ledger, one: Submission, fate: Fate, found: Mapping[str, Job], kinds: Kinds) -> bool:
        """Submit a stage once more, and what waited for it; False where it is over: the reason is in its state then."""
        retry = one.retry + 1 if self._stuck(one) else 1
        where, recipe = cluster.frozen_in(self.run, one.cluster), frozen(self.run).recipe
        why = self._forbidden(recipe, where, retry, fate)
        self._end(ledger, one, found, fate.reason)
        if why:
            self._note(one, why, anyhow=True)
            return False
        remote = Remote(recipe, where, ledger, self.queue, self.jobs)
        tasks = {"tasks": fate.tasks} if fate.tasks else {}
        try:
            made = self._send(remote, one.model_copy(update={"retry": retry, **tasks}), fate.nodes, found, ())
        except ConfigError as error:
            self._note(one, f"{fate.reason}; not started again: {error}", anyhow=True)
            return False
        self._say(one.stage, f"{fate.reason}; again as job {made.job_id} (retry {retry} of {where.watch.retries})")
        replaced = {one.stage: one.job_id}
        for step in chain.CHAIN:
            waits = ledger.newest.get(step.name)
            if waits is None or not any(waits.links.get(name) == job_id for name, job_id in replaced.items()):
                continue
            if kinds[step.name] == "over" and not step.after_any:
                continue  # a person cancelled it, or it failed by itself
            self._end(ledger, waits, found, f"{one.stage} is run again")
            try:
                again = self._send(remote, waits, "", found, replaced)
            except ConfigError as error:
                self._note(waits, f"{one.stage} is run again, and this is not: {error}", anyhow=True)
                continue
            if not step.service:
                replaced[step.name] = waits.job_id
            self._say(step.name, f"again as job {again.job_id}, after {', '.join(again.links)}")
        return True

    def _stuck(self, one: Submission) -> bool:
        """Whether a stage has come no further since it was submitted; a server: answered nothing."""
        return progress_of(self.run, one) <= one.done

    def _forbidden(self, recipe: Recipe, where: cluster.Cluster, retry: int, fate: Fate) -> str:
        """Why it must not be started again; empty where it may."""
        if retry > where.watch.retries:
            return f"given up after {where.watch.retries} retries without progress; the last time: {fate.reason}"
        try:
            budget.afford(recipe, self.run, where, [], budget.spent(self.run))
        except ConfigError as error:
            return f"{fate.reason}; not started again: {error}"
        return ""

    def _send(
        self, remote: Remote, one: Submission, nodes: str, found: Mapping[str, Job], fresh: Collection[str]
    ) -> Submission:
        """Submit it linked to what is at work now; without the nodes where they are all there are."""
        step = next(s for s in chain.CHAIN if s.name == one.stage)
        newest = remote.ledger.newest
        linked = {name: newest[name].job_id for name in remote.linked(step, fresh, found) if name != one.stage}
        linked = {name: job_id for name, job_id in linked.items() if job_id not in remote.ledger.ended}
        again = one.model_copy(update={"links": linked})
        exclude = ",".join(dict.fromkeys(n for n in (*one.exclude.split(","), nodes) if n))
        try:
            return remote.send(again, exclude)
        except ConfigError:
            if not exclude:
                raise
            return remote.send(again)  # the partition has no node to spare

    def _end(self, ledger: Ledger, one: Submission, found: Mapping[str, Job], reason: str) -> None:
        """End what is left of its jobs; noted first, so that nobody takes it for a person's doing."""
        left = [job.id for job in jobs_of(one, found) if not job.over]
        for job_id in left:
            ledger.end(job_id, reason)
        self.queue.cancel(left)

    def _note(self, one: Submission, reason: str, anyhow: bool = False) -> None:
        """Write down why a stage has ended, where its own job could not."""
        for name in {one.stage, *(place(one.stage, task) for task in one.tasks)}:
            stage = self.run.stage(name)
            state = stage.state()
            if state is None or (state.status == "failed" and state.reason == reason):
                continue
            if state.status in ("submitted", "running") or (state.status == "failed" and (anyhow or state.lost)):
                over = {"status": "failed", "reason": reason, "lost": False, "ended_at": time.time()}
                stage.set_state(state.model_copy(update=over))
                self._say(name, reason)

    def _say(self, stage: str, what: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {stage}: {what}", flush=True)


def _is_service(stage: str) -> bool:
    return any(step.service for step in chain.CHAIN if step.name == stage)


def _any_left(stages: Collection[str], fates: Mapping[str, Fate]) -> bool:
    """Whether one of them is still to run, or to be run again."""
    return any(fates[name].kind in ("works", "lost") for name in stages if name in fates)


class KeeperJob(StageJob):
    """The keeper as a job of the run."""

    def work(self, recipe: Recipe, run: Run) -> dict[str, Any]:
        keeper, every_s = Keeper(run, Queue()), cluster.frozen_in(run, frozen(run).cluster).watch.every_s
        while keeper.step():
            time.sleep(every_s)
        return {}
