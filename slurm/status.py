"""``python -m slurm.status status|logs|cancel|endpoint|chat``: what runs are doing, and ending them.

Reads RUN (else RECIPE), STAGE and RANK from the environment, as make hands them over.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence

from rich.console import Console

from octupus.errors import ConfigError, OctupusError
from octupus.runs import STALE_AFTER_S, Run, runs_folder
from slurm import chain, endpoint, reap
from slurm.claim import mark_over
from slurm.jobs import frozen
from slurm.submit import run_named
from slurm.view import Row, clock, row, table


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
            raise ConfigError(
                f"no run {name!r} in {runs_folder()}; there are: {', '.join(r.name for r in runs) or '-'}"
            )
        return run
    if not runs:
        raise ConfigError(f"no run in {runs_folder()} yet; `make demo` makes one")
    return runs[0]


def rows(run: Run) -> list[Row]:
    """The stages of a run; a running one that gives no sign of life says so."""
    found, alive = [], {p.stage.split("/")[0] for p in reap.marked(run.path)}
    for step in chain.chain_of(frozen(run).recipe):
        r = row(run, step)
        seen = run.stage(step.name).last_sign()
        silent = None if seen is None else time.time() - seen
        if r.status == "running" and step.name not in alive and (silent is None or silent > STALE_AFTER_S):
            told = f"no sign of life for {clock(silent)}" if silent is not None else "no sign of life"
            r = Row(r.name, "dead", r.seconds, None, f"{told}; the same make command goes on from here", r.log)
        found.append(r)
    return found


def status(run: Run, console: Console) -> None:
    value = frozen(run)
    head = f"[bold]{run.name}[/]  recipe {value.recipe.name}  code {value.code}  {run.path}"
    console.print(head, highlight=False, soft_wrap=True)
    console.print(table(rows(run), console.width, logs=console.width >= 110))
    for replica, found in run.endpoints().items():
        console.print(f"endpoint {replica}: {found.url}/v1 serves {found.model}", highlight=False)


def logs(run: Run, stage: str, rank: str) -> None:
    """Print the end of a stage's log, and follow it where the stage runs and this is a terminal.

    Raises:
        ConfigError: no such log.
    """
    begun = [r for r in rows(run) if r.status != "waiting"]
    running = [r.name for r in begun if r.status == "running"]
    name = stage or (running or [r.name for r in begun] or [""])[-1]
    path = run.stage(name).log / f"rank{rank or 0}.out"
    if not path.exists():
        raise ConfigError(f"no log {path}; stages with logs: {', '.join(r.name for r in begun) or 'none'}")
    print(f"==> {path} <==", flush=True)
    follow = ["-F"] if name in running and sys.stdout.isatty() else []
    os.execvp("tail", ["tail", "-n", "60", *follow, str(path)])


def cancel(run: Run, stage: str) -> None:
    """End what runs of a run (of one stage), servers included.

    Raises:
        ConfigError: no such stage: what was meant would run on.
    """
    names = [step.name for step in chain.CHAIN]
    if stage not in ("", *names):
        raise ConfigError(f"STAGE={stage}: no such stage; there are: {', '.join(names)}")
    count = reap.end(run.path, stage or None)
    for name in [stage] if stage else names:
        mark_over(run, name, "failed", "cancelled")
    for replica in [] if stage not in ("", "serve") else list(run.endpoints()):
        run.withdraw_endpoint(replica)
    what = f"{run.name}{' ' + stage if stage else ''}"
    print(f"{what}: nothing was running" if not count else f"{what}: ended, {count} processes")


def main(words: Sequence[str], given: Mapping[str, str]) -> int:
    command, console = (words[0] if words else ""), Console()
    named = bool(given.get("RUN") or given.get("RECIPE"))
    try:
        if command == "status" and not named:
            for run in known_runs() or [the_run(given)]:
                try:
                    status(run, console)
                except OctupusError as error:  # one that cannot be read must not hide the others
                    console.print(f"{run.name}: {error}", markup=False, highlight=False, soft_wrap=True)
        elif command == "status":
            status(the_run(given), console)
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
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
