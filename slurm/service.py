"""The chain's server as a job of its own: waited for by those who ask it, ended when the last of them has."""

from __future__ import annotations

import time

from eval.endpoint import BEFORE
from octupus.errors import Lost
from octupus.runs import Run
from slurm.apart import WIND_DOWN
from slurm.ledger import Ledger
from slurm.queue import Queue, Silent
from slurm.remote import jobs_of

POLL_S = 5.0


def await_endpoint(run: Run, queue: Queue | None = None, poll_s: float = POLL_S) -> None:
    """Until the run has an endpoint, for as long as a server's job lives; returns at once where there is none.

    ``after:`` is fulfilled by a job that was cancelled too, and a server may wait for its GPUs far longer than it takes
    to load: neither says when, or whether, it will answer. Of several replicas those that run are waited for, so that
    requests are spread over them; those that still wait for their GPUs are not.

    Raises:
        Lost: the jobs of all replicas have ended.
    """
    queue = queue or Queue()
    while (server := Ledger(run).newest.get("serve")) is not None:
        up, ids = len({*run.endpoints()} - {BEFORE}), server.job_ids()
        if up >= len(ids):
            return
        try:
            found = jobs_of(server, queue.jobs(ids))
        except Silent as error:
            print(f"{error}", flush=True)
        else:
            living = [job for job in found if not job.over]
            if up and up >= sum(job.running for job in living):
                return
            if not living and not up:
                ends = sorted({f"{job.state} {job.reason}".strip() for job in found})
                how = f"ended: {', '.join(ends)}" if ends else "is forgotten by Slurm"
                log = run.stage("serve").log
                raise Lost(f"the server's job {server.job_id} {how}, and no endpoint is up; its log is in {log}")
        time.sleep(poll_s)


def release(run: Run, stage: str, queue: Queue | None = None) -> str | None:
    """End the server (its replicas) that was started for a chain and whose last user is ``stage``; its job's id."""
    ledger, queue = Ledger(run), queue or Queue()
    server = ledger.newest.get("serve")
    if server is None or server.until != stage:
        return None
    living = [job for job in jobs_of(server, queue.jobs(server.job_ids())) if not job.over]
    queue.cancel(
        [job.id for job in living if job.running], signal=WIND_DOWN
    )  # it drains, withdraws itself and ends well
    waiting = [job.id for job in living if not job.running]
    for job_id in waiting:
        ledger.end(job_id, f"{stage} is over, nobody needs the server")
    queue.cancel(waiting)
    return server.job_id if living else None
