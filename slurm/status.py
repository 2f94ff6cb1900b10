"""``python -m slurm.status status|logs|cancel|endpoint|chat``: what runs are doing, and ending them.

Reads RUN (else RECIPE), STAGE, RANK and WATCH from the environment, as make hands them over.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from octupus.errors import ConfigError, OctupusError
from octupus.runs import Run, runs_folder
from slurm import endpoint
from slurm.cancel import cancel
from slurm.cluster import KEEPER
from slurm.look import Look
from slurm.submit import run_named
from slurm.view import table

WATCH_EVERY_S = 5.0
"""Each look is a question to Slurm's controller, which others ask too."""
TOLD_BELOW = ("failed", "dead", "stuck", "queued", "starting")
"""States whose reason does not always fit into the table."""
SHORT = 20
"""Characters that fit into the narrowest table."""


def known_runs() -> list[Run]:
    """Every run there is, the one worked on last first."""
    folders = [p.parent for p in runs_folder().glob("*/recipe.json")]
    return [Run(p) for p in sorted(folders, key=lambda p: (p / "recipe.json").stat().st_mtime, reverse=True)]


def the_run(given: Mapping[str, str]) -> Run:
    """RUN, else the run that bears the recipe's name, else the newest.

    Raises:
        ConfigError: there is none.
    """
    name = given.get("RUN") or given.get("RECIPE")
    runs = known_runs()
    if name:
        run = run_named(name)
        if not (run.path / "recipe.json").is_file():
            jobs = f"jobs that it may still have on Slurm: scancel --me --name={name}-<stage>"
            known = ", ".join(r.name for r in runs) or "-"
            raise ConfigError(f"no run {name!r} in {runs_folder()}; there are: {known} ({jobs})")
        return run
    if not runs:
        raise ConfigError(f"no run in {runs_folder()} yet; `make demo` makes one")
    return runs[0]


def status(look: Look, console: Console) -> None:
    """One run: its stages, its endpoints, and what to do next."""
    run, rows = look.run, look.rows()
    where = "" if look.frozen.cluster == "local" else f"  cluster {look.frozen.cluster}"
    head = f"[bold]{run.name}[/]  recipe {look.frozen.recipe.name}{where}  code {look.frozen.code}  {run.path}"
    console.print(head, highlight=False, soft_wrap=True)
    console.print(table([one for r in rows for one in (r, *look.tasks(r))], console.width))
    for r in rows:
        why = f" {r.reason}" if r.status in TOLD_BELOW and len(r.reason) > SHORT else ""
        log = f"  log: {r.log}" if r.status in ("running", "starting", "stuck", "failed", "dead") and r.log else ""
        if why or log:
            console.print(f"  {r.name}:{why}{log}", markup=False, highlight=False, soft_wrap=True)
    for replica, found in run.endpoints().items():
        console.print(f"  endpoint {replica}: {found.url}/v1 serves {found.model}", highlight=False, soft_wrap=True)
    hours, todo = sum(r.gpu_hours for r in rows), look.next(rows)
    if hours >= 0.05:
        console.print(f"  {hours:,.1f} GPU-hours so far{_of_budget(look)}", highlight=False)
    if todo:
        console.print(f"  next: {todo}", markup=False, highlight=False, soft_wrap=True)


def _of_budget(look: Look) -> str:
    limit = look.frozen.recipe.budget.gpu_hours
    return "" if limit is None else f" of the {limit:,.0f} that it may take"


def all_of(runs: Sequence[Run], console: Console) -> None:
    """The runs, one under the other; one that cannot be read hides no other, nor does a Slurm that is silent."""
    sound = list[Look]()
    for run in runs:
        try:
            sound.append(Look.into(run))
        except OctupusError as error:
            console.print(f"{run.name}: {error}", markup=False, highlight=False, soft_wrap=True)
    try:
        sound = Look.asked(sound)
    except OctupusError as error:
        console.print(f"what Slurm knows is missing here: {error}", markup=False, highlight=False, soft_wrap=True)
    for look in sound:
        try:
            status(look, console)
        except OctupusError as error:
            console.print(f"{look.run.name}: {error}", markup=False, highlight=False, soft_wrap=True)


def watch(given: Mapping[str, str], console: Console) -> None:
    """WATCH=1: the same, drawn anew in place until Ctrl-C.

    Raises:
        ConfigError: this is no terminal.
    """
    if not console.is_terminal:
        raise ConfigError("WATCH=1 draws on a terminal, and this is none: leave it out")
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            page = Console(file=io.StringIO(), width=console.width, force_terminal=True, color_system="standard")
            all_of(chosen(given), page)
            assert isinstance(page.file, io.StringIO)
            foot = f"{time.strftime('%H:%M:%S')}, every {WATCH_EVERY_S:.0f} s; Ctrl-C ends it"
            live.update(Group(Text.from_ansi(page.file.getvalue()), Text(foot, style="dim")), refresh=True)
            time.sleep(WATCH_EVERY_S)


def chosen(given: Mapping[str, str]) -> list[Run]:
    """The run that is named, else all of them."""
    named = bool(given.get("RUN") or given.get("RECIPE"))
    return [the_run(given)] if named else known_runs() or [the_run(given)]


def logs(run: Run, stage: str, rank: str) -> None:
    """Print the end of a stage's log, and follow it where the stage runs and this is a terminal.

    Raises:
        ConfigError: no such log.
    """
    (look,) = Look.at([run])
    rows = look.rows()
    begun = [r for r in rows if r.status not in ("waiting", "queued")]
    running = [r.name for r in begun if r.status in ("running", "starting", "stuck") and r.name != KEEPER]
    name = stage or (running or [r.name for r in begun] or [""])[-1]
    path = run.stage(name).log / f"rank{rank or 0}.out"
    if not path.exists():
        waits = next(
            (f"{name} has not started: {r.reason}; " for r in rows if r.name == name and r.status == "queued"), ""
        )
        raise ConfigError(f"{waits}no log {path}; stages with logs: {', '.join(r.name for r in begun) or 'none'}")
    print(f"==> {path} <==", flush=True)
    follow = ["-F"] if name in [*running, KEEPER] and sys.stdout.isatty() else []
    os.execvp("tail", ["tail", "-n", "60", *follow, str(path)])


def main(words: Sequence[str], given: Mapping[str, str]) -> int:
    command, console = (words[0] if words else ""), Console()
    try:
        if command == "status" and given.get("WATCH") not in (None, "", "0"):
            watch(given, console)
        elif command == "status":
            all_of(chosen(given), console)
        elif command == "logs":
            logs(the_run(given), given.get("STAGE", ""), given.get("RANK", ""))
        elif command == "cancel":
            cancel(the_run(given), given.get("STAGE", ""))
        elif command == "endpoint":
            if not endpoint.tell(the_run(given)):
                raise endpoint.missing(the_run(given))
        elif command == "chat":
            endpoint.chat(the_run(given))
        else:
            raise ConfigError("usage: python -m slurm.status status | logs | cancel | endpoint | chat")
    except OctupusError as error:
        print(f"octupus: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
