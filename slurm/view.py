"""What a run is doing, from its folder alone: a live table on a terminal, plain lines everywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from octupus.runs import Progress, Run, StageState
from slurm.chain import Planned, Step

PLAIN_EVERY_S = 20.0
COLOURS = {"running": "cyan", "done": "green", "failed": "red", "reused": "green", "submitted": "yellow"}
COLOURS |= {"queued": "yellow", "starting": "cyan", "dead": "red", "stuck": "red"}


@dataclass(frozen=True)
class Row:
    """One stage as it stands."""

    name: str
    status: str
    seconds: float | None = None
    progress: Progress | None = None
    reason: str = ""
    log: str = ""
    job: str = ""
    """Slurm's id."""
    nodes: str = ""
    limit_s: float | None = None
    gpu_hours: float = 0.0
    silent_s: float | None = None
    """Since its last sign of life; None where that says nothing."""

    @property
    def share(self) -> float | None:
        p = self.progress
        return None if p is None or not p.total else min(1.0, p.done / p.total)

    @property
    def figures(self) -> str:
        """``120/400 steps, 3.1/s, 1:30 left, loss 1.23``"""
        p = self.progress
        if p is None:
            return self.reason
        total = "" if p.total is None else f"/{_number(p.total)}"
        rate = f", {_number(p.rate)}/s" if p.rate and self.status == "running" else ""
        left = (
            f", {clock((p.total - p.done) / p.rate)} left" if rate and p.rate and p.total and p.done < p.total else ""
        )
        told = f"{_number(p.done)}{total} {p.unit}{rate}{left}{', ' + p.note if p.note else ''}"
        return f"{self.reason}; {told}" if self.reason and self.status != "done" else told

    @property
    def time(self) -> str:
        """``12:03 / 24:00:00``: how long it has run, and may."""
        limit = f" / {clock(self.limit_s)}" if self.limit_s is not None else ""
        return f"{clock(self.seconds)}{limit}" if self.seconds is not None else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def row(run: Run, step: Step) -> Row:
    """A stage's row, read from its folder."""
    stage = run.stage(step.name)
    state = stage.state()
    if state is None:
        return Row(step.name, "waiting")
    seconds = None if state.started_at is None else (state.ended_at or time.time()) - state.started_at
    log = stage.log / "rank0.out"
    return Row(step.name, state.status, seconds, _progress(run, step, state), state.reason, shown(log))


def task_rows(run: Run, step: Step) -> list[Row]:
    """Of an array, the tasks that run, each with figures of its own."""
    if step.array is None:
        return []
    found = []
    for task in sorted((run.stage(step.name).path / "tasks").glob("*")):
        made = row(run, Step(f"{step.name}/tasks/{task.name}"))
        if made.status == "running":
            found.append(replace(made, name=f"  {task.name}"))
    return found


def _progress(run: Run, step: Step, state: StageState) -> Progress | None:
    """The newest progress of this attempt, not of an earlier one."""
    found = [run.stage(name).progress() for name in step.shows or (step.name,)]
    if step.array is not None:
        tasks = run.stage(step.name).path / "tasks"
        found += [run.stage(f"{step.name}/tasks/{t.name}").progress() for t in sorted(tasks.glob("*"))]
    mine = [p for p in found if p is not None and state.started_at and p.heartbeat_at >= state.started_at]
    newest = max(mine, key=lambda p: p.heartbeat_at, default=None)
    if newest is None or step.array is None:
        return newest
    if newest.total is None:
        return newest.model_copy(update={"done": sum(p.done for p in mine)})
    total = sum(p.total or 0 for p in mine)
    rate = sum(p.rate or 0 for p in mine if p.total is None or p.done < p.total)
    return newest.model_copy(
        update={"done": sum(p.done for p in mine), "total": total, "rate": rate, "unit": "answers"}
    )


def shown(path: Path) -> str:
    """A path as short as it can be given from here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def table(rows: Sequence[Row], width: int, logs: bool = False) -> Table:
    """The stages with state, bar, figures and time; where there is room, what else is known: job, nodes, log."""
    told: dict[str, Callable[[Row], str]] = {
        "job": lambda r: r.job,
        "node": lambda r: r.nodes if len(r.nodes) <= 20 else f"{r.nodes[:19]}…",
        "GPU-h": lambda r: f"{r.gpu_hours:,.1f}" if r.gpu_hours >= 0.05 else "",
        "seen": lambda r: "" if r.silent_s is None else f"{clock(r.silent_s)} ago",
        "log": lambda r: r.log if logs else "",
    }
    bar_width, longest = (16 if width >= 120 else 8), max((len(r.figures) for r in rows), default=0)
    always = (lambda r: r.name, lambda r: r.status, lambda r: r.time)
    left = width - bar_width - 8 - sum(max((len(of(r)) for r in rows), default=0) + 1 for of in always)
    needs, shown = min(longest, 40 if width >= 100 else 24), []
    for name, of in told.items():
        wide = max((len(of(r)) for r in rows), default=0)
        if wide and max(wide, len(name)) + 1 <= left - needs:
            shown.append(name)
            left -= max(wide, len(name)) + 1
    made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), expand=False)
    made.add_column("stage", no_wrap=True)
    made.add_column("state", no_wrap=True)
    for name in [n for n in shown if n in ("job", "node")]:
        made.add_column(name, no_wrap=True)
    made.add_column("", width=bar_width)
    made.add_column("progress", overflow="ellipsis", no_wrap=True, max_width=max(16, left))
    made.add_column("time", justify="right", no_wrap=True, min_width=max((len(r.time) for r in rows), default=4))
    for name in [n for n in shown if n not in ("job", "node")]:
        made.add_column(name, no_wrap=True, justify="left" if name == "log" else "right")
    for r in rows:
        bar = ProgressBar(1.0, r.share, width=None) if r.share is not None else ""
        state = Text(r.status, style=COLOURS.get(r.status, "dim"))
        before = [told[n](r) for n in shown if n in ("job", "node")]
        after = [told[n](r) for n in shown if n not in ("job", "node")]
        made.add_row(r.name, state, *before, bar, r.figures, r.time, *after)
    return made


def clock(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class View:
    """Shows a plan while it is worked on; :meth:`show` is called often and costs a few small reads."""

    def __init__(self, run: Run, planned: Sequence[Planned], console: Console | None = None) -> None:
        self.run, self.planned = run, planned
        self.console = console or Console()
        self.begun: set[str] = set()
        """Stages that this command has started."""
        self._live: Live | None = None
        self._told: dict[str, str] = {}
        self._last = 0.0

    def __enter__(self) -> View:
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        self.show()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
            self.console.print(table(self.rows(), self.console.width, logs=self.console.width >= 110))
        else:
            self._plain(self.rows())

    def rows(self) -> list[Row]:
        found = []
        for planned in self.planned:
            r = row(self.run, planned.step)
            if planned.action == "reuse":
                r = Row(r.name, "reused", r.seconds, None, planned.why, r.log)
            elif planned.name not in self.begun:
                r = Row(r.name, "waiting")  # what an earlier command left behind is not shown as this one's
            found.append(r)
        return found

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self) -> None:
        rows = self.rows()
        if self._live is None:
            self._plain(rows)
            return
        running = [r for r in rows if r.status in ("submitted", "running")]
        logs = Text("\n".join(f"log of {r.name}: {r.log}" for r in running), style="dim", overflow="fold")
        self._live.update(Group(table(rows, self.console.width), logs), refresh=True)

    def _plain(self, rows: Sequence[Row]) -> None:
        """A line when a stage changes its state, and one with figures now and then."""
        due = time.monotonic() - self._last >= PLAIN_EVERY_S
        for r in rows:
            if r.status in ("waiting", "reused"):
                line = "" if r.status == "waiting" else f"{r.name}: {r.reason}"
                if line and self._told.get(r.name) != line:
                    self._told[r.name] = line
                    self.say(line)
                continue
            if self._told.get(r.name, "").split(" ")[0] != r.status:
                self._told[r.name] = r.status
                time_taken = f" in {clock(r.seconds)}" if r.status in ("done", "failed") else ""
                self.say(f"{r.name}: {r.status}{time_taken}; log: {r.log}")
                self._last = time.monotonic()
            elif due and r.status == "running" and r.figures and self._told[r.name] != f"running {r.figures}":
                self._told[r.name] = f"running {r.figures}"
                self.say(f"{r.name}: {r.figures}")
                self._last = time.monotonic()
