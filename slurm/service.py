"""The chain's server as a job of its own: waited for by those who ask it, ended when the last of them has.

All of it works from a job in a container that lacks Slurm's commands, too: endpoints, and the wish that a server end,
are files of the run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from eval.endpoint import BEFORE
from octupus.errors import Lost
from octupus.publish import publish_bytes
from octupus.runs import Run
from slurm.apart import WIND_DOWN
from slurm.cluster import KEEPER
from slurm.ledger import Ledger
from slurm.queue import Absent, Queue, Silent
from slurm.remote import jobs_of
from slurm.stage import frozen

POLL_S = 5.0


def await_endpoint(run: Run, queue: Queue | None = None, poll_s: float = POLL_S) -> None:
    """Until the run has an endpoint, for as long as a server's job lives; returns at once where there is none.

    ``after:`` is fulfilled by a job that was cancelled too, and a server may wait for its GPUs far longer than it takes
    to load: neither says when, or whether, it will answer. Of several replicas those that run are waited for, so that
    requests are spread over them; those that still wait for their GPUs are not. Where Slurm cannot be asked, one
    endpoint is waited for, for as long as a server may take to load.

    Raises:
        Lost: the jobs of all replicas have ended, or none has answered in time.
    """
    queue, deadline = queue or Queue(), time.monotonic() + frozen(run).recipe.serve.ready_timeout_s
    while (server := Ledger(run).newest.get("serve")) is not None:
        up, ids = len({*run.endpoints()} - {BEFORE}), server.job_ids()
        if up >= len(ids):
            return
        try:
            mine = jobs_of(server, queue.jobs(ids))
        except Silent as error:
            print(f"{error}", flush=True)
        except Absent as error:
            if up:
                return
            if time.monotonic() > deadline:
                raise Lost(f"no endpoint came up in time (serve.ready_timeout_s); {error}") from error
        else:
            living = [job for job in mine if not job.over]
            if up and up >= sum(job.running for job in living):
                return
            if not living and not up:
                ends = sorted({f"{job.state} {job.reason}".strip() for job in mine})
                how = f"ended: {', '.join(ends)}" if ends else "is forgotten by Slurm"
                log = run.stage("serve").log
                raise Lost(f"the server's job {server.job_id} {how}, and no endpoint is up; its log is in {log}")
        time.sleep(poll_s)


def ask_to_end(run: Run, ids: Iterable[str], queue: Queue) -> None:
    """Have running servers drain, withdraw their endpoints and end well: a file that their jobs look for, and a signal
    that has them look now."""
    ids = sorted(ids)
    for job_id in ids:
        publish_bytes(_wish(run, job_id), b"")
    try:
        queue.cancel(ids, signal=WIND_DOWN)
    except Absent:
        return  # they look by themselves


def asked_to_end(run: Run, job_id: str) -> bool:
    return _wish(run, job_id).exists()


def _wish(run: Run, job_id: str) -> Path:
    return run.path / "serve" / "end" / job_id


def release(run: Run, stage: str, queue: Queue | None = None) -> str | None:
    """End the server (its replicas) that was started for a chain and whose last user is ``stage``; its job's id."""
    ledger, queue = Ledger(run), queue or Queue()
    server = ledger.newest.get("serve")
    if server is None or server.until != stage:
        return None
    try:
        living = [job for job in jobs_of(server, queue.jobs(server.job_ids())) if not job.over]
    except Absent:
        ask_to_end(run, server.job_ids(), queue)
        return server.job_id
    ask_to_end(run, [job.id for job in living if job.running], queue)
    waiting = [job.id for job in living if not job.running]
    for job_id in waiting:
        ledger.end(job_id, f"{stage} is over, nobody needs the server")
    queue.cancel(waiting)
    return server.job_id if living else None


def release_from(run: Run, stage: str, failed: bool) -> None:
    """:func:`release` by the job of that stage itself, which is not to fail for it.

    Where it ``failed`` it may be run again, and the server with it: a keeper knows, and without one nobody does that.
    """
    try:
        if not (failed and KEEPER in Ledger(run).newest):
            release(run, stage)
    except Silent as error:
        print(f"the server is not ended yet: {error}", flush=True)
