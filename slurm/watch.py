"""WAIT=1: the chain on Slurm shown and kept from here, until it has ended."""

from __future__ import annotations

import time
from collections.abc import Sequence

from octupus.errors import JobError
from octupus.runs import Run
from slurm.chain import Planned
from slurm.keeper import Keeper
from slurm.queue import Queue
from slurm.view import View, shown

SHOW_S = 1.0


def until_over(run: Run, queue: Queue, planned: Sequence[Planned], every_s: float, again: str) -> None:
    """Show the plan and repair it until nothing of it is at work any more.

    Raises:
        JobError: a stage has not succeeded; says which, why, and what to run next.
    """
    keeper, view = Keeper(run, queue), View(run, planned)
    view.begun |= {p.name for p in planned if p.action in ("run", "link")}
    with view:
        while keeper.step():
            deadline = time.monotonic() + every_s
            while time.monotonic() < deadline:
                view.show()
                time.sleep(SHOW_S)
    lines = []
    for p in (p for p in planned if p.action != "reuse" and not p.step.service):
        state, stage = run.stage(p.name).state(), run.stage(p.name)
        if state is not None and state.status != "done":
            log = shown(stage.log / "rank0.out")
            lines.append(f"{p.name} {state.status}: {state.reason or 'no reason is known'}\n  log: {log}")
    if lines:
        raise JobError("\n".join([*lines, f"  next: mend the cause, then `{again}` goes on from here"]))
