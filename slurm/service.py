"""The chain's server as a job of its own: waited for by those who ask it, ended when the last of them has."""

from __future__ import annotations

import time

from eval.endpoint import BEFORE
from octupus.errors import Lost
from octupus.runs import Run
from slurm.ledger import Ledger
from slurm.queue import Queue, Silent

POLL_S = 5.0


def await_endpoint(run: Run, queue: Queue | None = None, poll_s: float = POLL_S) -> None:
    """Until the run has an endpoint, for as long as the server's job lives; returns at once where there is none.

    ``after:`` is fulfilled by a job that was cancelled too, and a server may wait for its GPUs far longer than it takes
    to load: neither says when, or whether, it will answer.

    Raises:
        Lost: the server's job has ended.
    """
    queue = queue or Queue()
    while not {*run.endpoints()} - {BEFORE}:
        server = Ledger(run).newest.get("serve")
        if server is None:
            return
        try:
            job = queue.jobs([server.job_id]).get(server.job_id)
        except Silent as error:
            print(f"{error}", flush=True)
        else:
            if job is None or job.over:
                how = "is forgotten by Slurm" if job is None else f"ended: {job.state} {job.reason}".strip()
                log = run.stage("serve").log
                raise Lost(f"the server's job {server.job_id} {how}, and no endpoint is up; its log is in {log}")
        time.sleep(poll_s)


def release(run: Run, stage: str, queue: Queue | None = None) -> str | None:
    """End the server that was started for a chain and whose last user is ``stage``; the id of its job."""
    ledger, queue = Ledger(run), queue or Queue()
    server = ledger.newest.get("serve")
    if server is None or server.until != stage:
        return None
    job = queue.jobs([server.job_id]).get(server.job_id)
    if job is None or job.over:
        return None
    if job.running:
        queue.cancel([job.id], signal="TERM")  # it drains, withdraws its endpoint and ends well
    else:
        ledger.end(job.id, f"{stage} is over, nobody needs the server")
        queue.cancel([job.id])
    return job.id
