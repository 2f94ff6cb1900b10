"""The process that a cluster is: brings it up, adopts what loses its parent, and takes everything with it at its end.

usage: python -m slurm.devcluster.holder OPTIONS; says on standard output that the cluster is up, or why not.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from types import FrameType
from typing import NoReturn

from octupus.errors import JobError
from slurm.devcluster import conf
from slurm.devcluster.daemons import Daemons
from slurm.devcluster.layout import Layout, Options, parent, processes
from slurm.devcluster.network import Networks

SET_CHILD_SUBREAPER = 36
ENDS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
READY = "up"


def descendants() -> list[int]:
    """Everything below this process."""
    parents = {pid: parent(pid) for pid in processes()}
    found, new = set[int](), {os.getpid()}
    while new := {pid for pid, above in parents.items() if above in new} - found:
        found |= new
    return sorted(found)


def reap() -> None:
    """Collect whatever has ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def end_all(within_s: float = 20) -> None:
    """Kill everything below, and what it starts meanwhile, until nothing is left."""
    deadline = time.monotonic() + within_s
    while (left := descendants()) and time.monotonic() < deadline:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.01)
        reap()


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def hold() -> None:
    """Until somebody asks it to end."""
    watched = {*ENDS, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)  # nothing is started any more that could inherit this
    while True:
        reap()
        if signal.sigwait(watched) in ENDS:
            return


def main(values: str) -> int:
    options = Options(**json.loads(values))
    layout = Layout(options.name)
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in ENDS:
        signal.signal(number, _stop)
    try:
        place = conf.together() if options.shared else conf.apart()
        on = (lambda node, command: list(command)) if options.shared else Networks(layout, place).on
        Daemons(layout, options, place, on).start()
        print(READY, flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        hold()
    except JobError as error:
        print(error, flush=True)
        return error.exit_code
    finally:
        end_all()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
