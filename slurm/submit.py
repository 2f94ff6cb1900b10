"""``python -m slurm.submit demo|all|stage NAME...``: recipe and cluster -> a frozen run folder -> its stages run.

Reads RECIPE, RUN, CLUSTER, SET, DRY and FRESH from the environment: the Makefile hands them over without a shell
ever seeing them.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from eval.endpoint import BEFORE, answers
from octupus import config
from octupus.config import Recipe
from octupus.errors import ConfigError, JobError, OctupusError
from octupus.runs import Run, runs_folder
from slurm import budget, chain, cluster, endpoint, measured, reap
from slurm.chain import Planned
from slurm.claim import Claim
from slurm.cluster import KEEPER, Cluster
from slurm.env.setup import has_gpu
from slurm.freeze import changes, freeze
from slurm.jobs import JOBS
from slurm.keeper import KeeperJob
from slurm.ledger import Ledger, alone
from slurm.queue import Queue
from slurm.remote import Remote, environment, job_name
from slurm.stage import Frozen, frozen, newest_model

DEFAULT_RECIPE = "v2"
SWITCHES = ("DRY", "FRESH", "FG", "WAIT")
VARIABLES = ("RECIPE", "RUN", "CLUSTER", "SET", "CATEGORIES", "MODEL", "MODEL_URL", *SWITCHES)


@dataclass(frozen=True)
class Asked:
    """What a command asks for."""

    goals: tuple[str, ...] | None
    """None: the whole chain."""
    recipe: str | None = None
    run: str | None = None
    cluster: str = "local"
    overrides: tuple[str, ...] = ()
    dry: bool = False
    fresh: bool = False
    foreground: bool = False
    wait: bool = False
    """On Slurm: stay, show the chain and repair it from here, until it has ended."""
    again: str = "make demo"
    """The command that goes on from here."""
    categories: str = ""
    """BFCL's, in place of the recipe's: ``simple_python multiple:20``."""
    model: str = ""
    """A folder or hub id to measure, in place of the run's own model."""
    url: str = ""
    """An OpenAI-compatible server to measure."""

    @classmethod
    def of(cls, words: Sequence[str], environment: Mapping[str, str]) -> Asked:
        """Read a command line and the variables of make.

        Raises:
            ConfigError: a command that does not exist, a SET that is not a list of path=value.
        """
        given = {key: environment.get(key, "").strip() for key in VARIABLES}
        command, goals = (words[0], words[1:]) if words else ("", ())
        if command not in ("demo", "all", "stage") or (command == "stage") != bool(goals):
            raise ConfigError("usage: python -m slurm.submit demo | all | stage NAME...")
        for key in SWITCHES:
            if given[key] not in ("", "0", "1"):
                raise ConfigError(f"{key}={given[key]!r}: 1 is yes, 0 or nothing is no")
        closing = [after for name, after in chain.CLOSED_BY.items() if name in goals and after not in goals]
        try:
            overrides = tuple(shlex.split(given["SET"]))
        except ValueError as error:
            raise ConfigError(f"SET={given['SET']!r}: {error}; quote values as a shell would") from error
        kept = [f"{key}={shlex.quote(given[key])}" for key in VARIABLES if given[key] and key not in SWITCHES]
        return cls(
            goals=(*goals, *closing) if command == "stage" else None,
            recipe=given["RECIPE"] or ("demo" if command == "demo" else None),
            run=given["RUN"] or None,
            cluster=given["CLUSTER"] or "local",
            overrides=overrides,
            dry=given["DRY"] == "1",
            fresh=given["FRESH"] == "1",
            foreground=given["FG"] == "1",
            again=" ".join(["make", *(goals or [command]), *kept]),
            wait=given["WAIT"] == "1",
            **{name: given[name.upper()] for name in ("categories", "model")},
            url=given["MODEL_URL"],
        )


def run_named(name: str) -> Run:
    """Raises:
    ConfigError: a name that is no folder's.
    """
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ConfigError(f"RUN={name!r} cannot name a folder: use letters, digits, dots, dashes and underscores")
    return Run(runs_folder() / name)


def resolve(asked: Asked) -> tuple[Recipe, Run]:
    """The recipe and the run that a command means."""
    bfcl = asked.goals is not None and "bfcl" in asked.goals
    if bfcl and (asked.model or asked.url):
        recipe = measured.recipe_of(
            asked.model, asked.url, config.load(asked.recipe or DEFAULT_RECIPE, asked.overrides)
        )
        run = run_named(asked.run or recipe.name)
    else:
        recipe, run = _resolve(asked)
    return (measured.with_categories(recipe, asked.categories) if bfcl and asked.categories else recipe), run


def _resolve(asked: Asked) -> tuple[Recipe, Run]:
    """A run that exists keeps its frozen recipe where none is named, and where only what is there is to be used."""
    known = run_named(asked.run or asked.recipe or DEFAULT_RECIPE)
    takes = {step.name for step in chain.CHAIN if step.takes_what_is_there}
    uses_only = asked.goals is not None and set(asked.goals) <= takes
    if not asked.overrides and (uses_only or asked.recipe is None) and (known.path / "recipe.json").is_file():
        return frozen(known).recipe, known
    name = asked.recipe or (frozen(known).recipe.name if asked.run else DEFAULT_RECIPE)
    recipe = config.load(name, asked.overrides)
    return recipe, run_named(asked.run or recipe.name)


def check_can_run(recipe: Recipe, run: Run, where: Cluster, planned: Sequence[Planned]) -> None:
    """Refuse within seconds what would fail after minutes, and tell what training will need.

    Raises:
        ConfigError: more nodes than this machine is, a large base without a GPU, a model too large for the GPUs.
    """
    demo = "`make demo` runs the whole chain on this machine"
    todo = [p.name for p in planned if p.action == "run"]
    for stage in todo:
        nodes, _ = chain.ranks_of(recipe, stage)
        if nodes > 1 and where.executor == "local":
            raise ConfigError(
                f"recipe {recipe.name!r}: {stage} wants {nodes} nodes and this is one machine: name a cluster "
                f"(CLUSTER=...), or give SET={stage}.nodes=1; {demo}"
            )
    heavy = {"surgery", "baseline", "stage1", "stage2", "serve"} & set(todo)
    base = recipe.model.base
    if "surgery" in todo and base is not None and base.startswith(("/", ".", "~")) and not Path(base).is_dir():
        raise ConfigError(f"recipe {recipe.name!r}: missing base model: no folder {base!r} (model.base)")
    here = where.executor == "local" and where.device != "cpu"
    if heavy and here and base is not None and not Path(base).is_dir() and not has_gpu():
        raise ConfigError(f"recipe {recipe.name!r} starts from {base}, and this machine has no GPU: {demo}")
    for line in budget.check(recipe, run, where, todo, budget.spent(run)):
        print(f"  {line}", flush=True)


def dry(recipe: Recipe, run: Run, where: Cluster, planned: Sequence[Planned]) -> None:
    """Print the resolved recipe, the graph and what Slurm would get; touch nothing."""
    print(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    hours = 0.0
    for p in planned:
        nodes, count = chain.ranks_of(recipe, p.name)
        waits = f" after {', '.join(p.step.after)}" if p.step.after else ""
        names = chain.tasks_of(recipe, p.name) if where.executor == "slurm" or not p.step.service else ()
        tasks = f" x {len(names)} tasks ({', '.join(names)})" if names else ""
        size = f"{nodes} node(s) x {count} rank(s){tasks}"
        print(f"{p.name}: {p.action}{waits}; {size}{'; ' + p.why if p.why else ''}")
        if p.action == "run":
            limit = where.resources(p.name).time_min / 60
            hours += nodes * chain.gpus_of(recipe, p.name) * limit * (where.device != "cpu")
    if where.executor == "slurm":
        values = environment(run, "<digest>", where)
        for p in (p for p in planned if p.action == "run"):
            kind = "afterany" if p.step.after_any else "afterok"
            before = [f"{kind}:<{q.name}>" for q in planned if q.action == "run" and q.name in p.step.after]
            parameters = cluster.slurm_parameters(where, recipe, p.name, values, ",".join(before) or None)
            parameters["job_name"] = job_name(run, p.name)
            print(f"\n# ---- {p.name}\n{cluster.sbatch_text(where, parameters, run.stage(p.name).log)}")
        print(f"at most {hours:,.0f} GPU-hours (every job up to its time limit)")
    todo = [p.name for p in planned if p.action == "run"]
    for line in budget.check(recipe, run, where, todo):
        print(line)
    if "teacher" in todo:
        from octupus.teacher import estimate  # reads prompts: not for a mere submission

        for line in estimate.lines(recipe, run, chain.gpus_of(recipe, "teacher") * (where.device != "cpu")):
            print(line)
    print(f"DRY=1: nothing was run; the run folder would be {run.path}")


def submit(asked: Asked) -> int:
    """Do what a command asks for; 0 when all of it is done.

    Raises:
        OctupusError: what is wrong, where, and what to do next.
    """
    where = cluster.load(asked.cluster)
    recipe, run = resolve(asked)
    if where.executor == "slurm":
        recipe = heard_everywhere(recipe)
    planned = chain.plan(recipe, run, asked.goals, fresh=asked.fresh)
    if asked.dry:
        dry(recipe, run, where, planned)
        return 0
    if where.executor == "slurm":
        return _run_there(asked, recipe, run, where, planned)
    check_can_run(recipe, run, where, planned)
    withdraw_dead(run)
    if asked.goals == ("serve",) and endpoint.tell(run):
        return 0
    if {"serve", "bfcl"} & set(asked.goals or ()):
        print(f"model: {recipe.serve.model or newest_model(run)}", flush=True)
    planned = without_server_that_is_up(run, planned)
    with Claim(run, [p.name for p in planned if p.action == "run"]) as claim:
        return _run_here(asked, recipe, claim, where, planned)


def heard_everywhere(recipe: Recipe) -> Recipe:
    """On a cluster the server must be reached from other nodes."""
    if recipe.serve.host not in ("127.0.0.1", "localhost", "::1"):
        return recipe
    print("serve.host: 0.0.0.0, so that other nodes reach the server", flush=True)
    return recipe.model_copy(update={"serve": recipe.serve.model_copy(update={"host": "0.0.0.0"})})


def withdraw_dead(run: Run) -> None:
    """Take back the endpoints of servers that were killed, whose heartbeat is not stale yet."""
    for replica, found in run.endpoints().items():
        if answers(found.url.rstrip("/").removesuffix("/v1")) is False:
            run.withdraw_endpoint(replica)


def without_server_that_is_up(run: Run, planned: list[Planned]) -> list[Planned]:
    """A server that somebody started before is used, unless its model is about to change.

    Raises:
        ConfigError: it is.
    """
    todo = {p.name for p in planned if p.action == "run"}
    if not {*run.endpoints()} - {BEFORE} or not any(p.step.service for p in planned):
        return planned
    if {"surgery", "stage1", "stage2"} & todo:
        raise ConfigError(
            f"run {run.name} has a server up, and this would replace the model that it serves: first "
            f"make cancel RUN={run.name} STAGE=serve"
        )
    return [p for p in planned if not p.step.service]


def _run_here(asked: Asked, recipe: Recipe, claim: Claim, where: Cluster, planned: Sequence[Planned]) -> int:
    from slurm.local import LocalChain  # submitit: only where something is started

    run = claim.run
    changed = changes(run, recipe)
    if changed and reap.marked(run.path):
        raise ConfigError(
            f"run {run.name} is at work with another recipe ({changed[0]}): wait, stop it with make cancel "
            f"RUN={run.name}, or give this one a name of its own: RUN=..."
        )
    value = freeze(run, recipe, where)
    _tell_frozen(run, value, changed, planned)
    jobs = environment(run, value.code, where)
    here = LocalChain(claim, recipe, planned, JOBS, cluster.python(where), jobs, code=value.code, again=asked.again)
    if asked.goals == ("serve",):
        served = here.serve(planned[0])
        endpoint.tell(run)
        if asked.foreground:
            endpoint.stay(run, lambda: served.over, served.log())
        return 0
    here.go()
    if asked.goals is None or {"bfcl", "report"} & set(asked.goals):
        tell_results(run)
    return 0


def _tell_frozen(run: Run, value: Frozen, changed: Sequence[str], planned: Sequence[Planned]) -> None:
    print(f"run {run.name}: recipe {value.recipe.name}, {run.path}", flush=True)
    if changed:
        print(f"  the recipe has changed since: {'; '.join(changed[:8])}{' ...' if len(changed) > 8 else ''}")
    states = {p.name: run.stage(p.name).state() for p in planned if p.action == "reuse"}
    old = [name for name, state in states.items() if state is not None and state.code not in ("", value.code)]
    if old:
        print(f"  done with older code and kept: {', '.join(old)} (FRESH=1 runs them anew)", flush=True)


def _run_there(asked: Asked, recipe: Recipe, run: Run, where: Cluster, planned: Sequence[Planned]) -> int:
    """Submit what is to run, and return; WAIT=1 stays until it has ended."""
    from slurm import remote

    queue = Queue()
    with alone(run):
        ledger = Ledger(run)
        found = queue.jobs({job_id for one in ledger.newest.values() for job_id in one.job_ids()})
        withdraw_dead(run)
        planned = without_server_that_is_up(run, remote.consider(planned, ledger, found, asked.goals))
        check_can_run(recipe, run, where, planned)
        changed = changes(run, recipe)
        busy = [one.stage for one in ledger.newest.values() if remote.alive(remote.jobs_of(one, found))]
        if asked.goals is not None and {"serve", "bfcl"} & {*asked.goals} and not recipe.bfcl.url and not busy:
            print(f"model: {recipe.serve.model or newest_model(run)}", flush=True)
        if changed and {*busy} - {KEEPER}:
            raise ConfigError(
                f"run {run.name} is at work ({', '.join(busy)}) with another recipe ({changed[0]}): wait, stop it with "
                f"make cancel RUN={run.name}, or give this one a name of its own: RUN=..."
            )
        value = freeze(run, recipe, where)
        _tell_frozen(run, value, changed, planned)
        chained = remote.Remote(recipe, where, ledger, queue, {**JOBS, KEEPER: KeeperJob})
        made = chained.submit(planned, value.code, found)
        watching = None if asked.wait or not made else remote.keeper(chained, value.code, found)
    for p in planned:
        if p.action != "run":
            print(f"{p.name}: {p.why}")
    for one in made:
        links = ", ".join(f"{name} ({job_id})" for name, job_id in one.links.items())
        tasks = f" x {len(one.tasks)}" if one.tasks else ""
        print(f"{one.stage}: job {one.job_id}{tasks}{f', after {links}' if links else ''}")
    if watching is not None:
        print(f"{KEEPER}: job {watching.job_id}, starts again what Slurm or a node ends")
    if asked.wait:
        return _stay(asked, chained, planned, value.code)
    print(f"next: make status RUN={run.name}    make logs RUN={run.name} STAGE=...    make cancel RUN={run.name}")
    return 0


def _stay(asked: Asked, chained: Remote, planned: Sequence[Planned], code: str) -> int:
    """WAIT=1. Ctrl-C leaves the jobs as they are, and somebody who looks after them."""
    from slurm import remote, watch

    run, every_s = chained.run, min(chained.where.watch.every_s, 5.0)
    try:
        watch.until_over(run, chained.queue, planned, every_s, asked.again)
    except KeyboardInterrupt:
        with alone(run):
            now = replace(chained, ledger=Ledger(run))
            found = chained.queue.jobs({job_id for one in now.ledger.newest.values() for job_id in one.job_ids()})
            watching = remote.keeper(now, code, found)
        told = f", kept by job {watching.job_id}" if watching else ""
        print(f"\nthe jobs go on{told}: make status RUN={run.name}; make cancel RUN={run.name} ends them")
        return 130
    if asked.goals is None or {"bfcl", "report"} & {*asked.goals}:
        tell_results(run)
    return 0


def tell_results(run: Run) -> None:
    """The BFCL table, held-out accuracy before and after, and where the report is."""
    from eval import report

    report.terminal(run)
    page = run.path / "report" / "index.html"
    if page.is_file():
        print(f"report: {page}")


def main(words: Collection[str] | None = None) -> int:
    """A command line; errors that a user can mend are one sentence and an exit code."""
    try:
        return submit(Asked.of(list(sys.argv[1:] if words is None else words), os.environ))
    except OctupusError as error:
        print(f"\n{error}" if isinstance(error, JobError) else f"octupus: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        print(f"octupus: {error.strerror}: {error.filename2 or error.filename or runs_folder()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
