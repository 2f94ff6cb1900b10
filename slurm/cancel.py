"""``make cancel``: ends what runs or waits of a run, here and on Slurm: the keeper first, servers last."""

from __future__ import annotations

import time
from collections.abc import Sequence

from octupus.errors import ConfigError
from octupus.runs import Run
from slurm import chain, reap, remote
from slurm.claim import mark_over
from slurm.cluster import KEEPER
from slurm.ledger import Ledger, alone
from slurm.queue import Job, Queue
from slurm.service import ask_to_end
from slurm.stage import frozen

SETTLE_S = 20.0
"""What Slurm's KillWait may add to a job's own end."""
POLL_S = 0.5
ORDER = (
    KEEPER,
    *reversed([step.name for step in chain.CHAIN if not step.service]),
    *(s.name for s in chain.CHAIN if s.service),
)
SERVICES = {step.name for step in chain.CHAIN if step.service}


def cancel(run: Run, stage: str, queue: Queue | None = None) -> None:
    """End what runs of a run (of one stage and of those that wait for it), servers included.

    Raises:
        ConfigError: no such stage: what was meant would run on. Silent: Slurm does not answer.
    """
    names = [step.name for step in chain.CHAIN]
    if stage not in ("", *names):
        raise ConfigError(f"STAGE={stage}: no such stage; there are: {', '.join(names)}")
    jobs = _on_slurm(run, stage, queue or Queue())
    count = reap.end(run.path, stage or None)
    for name in [stage, *jobs] if stage else names:
        mark_over(run, name, "failed", "cancelled")
    for replica in [] if stage not in ("", "serve") else list(run.endpoints()):
        run.withdraw_endpoint(replica)
    what = f"{run.name}{' ' + stage if stage else ''}"
    told = [f"{count} processes"] if count else []
    told += [f"{name} (job {', '.join(sorted({job.array for job in mine}))})" for name, mine in jobs.items()]
    print(f"{what}: ended: {', '.join(told)}" if told else f"{what}: nothing was running")


def _on_slurm(run: Run, stage: str, queue: Queue) -> dict[str, list[Job]]:
    """End a run's jobs; which there were, by stage. No other is touched: an id that was given anew has another name."""
    if not Ledger(run).submissions:
        return {}
    with alone(run):  # nobody submits meanwhile
        ledger = Ledger(run)
        wanted = _with_those_that_wait(ledger, stage) if stage else {*ledger.newest}
        found = queue.jobs({job_id for one in ledger.submissions if one.stage in wanted for job_id in one.job_ids()})
        ours = dict[str, list[Job]]()
        for one in ledger.submissions:
            left = [job for job in remote.jobs_of(one, found) if not job.over] if one.stage in wanted else []
            if left:
                ours.setdefault(one.stage, []).extend(left)
        # The keeper first: nothing is started again; then from the end of the chain: clients end before their server.
        for name in sorted(ours, key=lambda n: ORDER.index(n)):
            draining = {job.id for job in ours[name] if name in SERVICES and job.running}
            ask_to_end(run, draining, queue)
            queue.cancel({job.id if draining else job.array for job in ours[name]} - draining)
    drain_s = frozen(run).recipe.serve.drain_s if SERVICES & {*ours} else 0.0
    left = _wait([job for mine in ours.values() for job in mine], queue, drain_s + SETTLE_S)
    queue.cancel({job.array for job in left})
    for job in _wait(left, queue, SETTLE_S) if left else []:
        print(f"job {job.id} is still {job.state} on {job.nodes}; look again with make status RUN={run.name}")
    return ours


def _with_those_that_wait(ledger: Ledger, stage: str) -> set[str]:
    """A stage and whatever was submitted to run after it."""
    found = {stage}
    for step in chain.CHAIN:
        one = ledger.newest.get(step.name)
        if one is not None and found & {*one.links}:
            found.add(step.name)
    return found


def _wait(jobs: Sequence[Job], queue: Queue, within_s: float) -> list[Job]:
    """Those of the jobs that are not over after some time."""
    left, deadline = list(jobs), time.monotonic() + within_s
    while left:
        found = queue.jobs({job.id for job in left})
        left = [found[job.id] for job in left if job.id in found and not found[job.id].over]
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    return left
