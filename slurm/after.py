"""``python -m slurm.after compare|smoke|worldbench|publish|iterations``: what one does with a run that is there.

Variables: RUNS and GATE (compare), RUN or MODEL_URL and MODEL (smoke, worldbench), N (worldbench), RUN, REPO, DATA and
DRY (publish).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval import compare, iterations, smoke, worldbench
from eval.endpoint import read_key
from octupus import config
from octupus.config import ServeSection
from octupus.errors import ConfigError, OctupusError
from octupus.publish import publish_bytes
from slurm.publish import publish
from slurm.stage import frozen
from slurm.status import known_runs, the_run
from slurm.submit import run_named

ROOT = Path(__file__).resolve().parents[1]


def compare_runs(given: Mapping[str, str]) -> int:
    """1 where GATE's run is significantly better than another of RUNS."""
    folders = {name: run_named(name).path for name in given.get("RUNS", "").split()}
    text, worse = compare.compare(folders, given.get("GATE", ""))
    print(text)
    for name in worse:
        print(f"GATE: {name} is significantly worse than {given['GATE']}")
    return 1 if worse else 0


def served(given: Mapping[str, str]) -> tuple[str, str, str]:
    """Address, key and model's name of MODEL_URL, or of the run's endpoint.

    Raises:
        ConfigError: the run has none.
    """
    url, section = given.get("MODEL_URL", ""), ServeSection()
    if not url:
        run = the_run(given)
        endpoints, recipe = run.endpoints(), frozen(run).recipe
        if not endpoints:
            raise ConfigError(f"run {run.name} has no endpoint; make serve RUN={run.name}, or name one: MODEL_URL=...")
        url, section = next(iter(endpoints.values())).url, recipe.serve
    return url.rstrip("/").removesuffix("/v1") + "/v1", read_key(section), given.get("MODEL") or "any"


def bench_worlds(given: Mapping[str, str]) -> int:
    """Every split of worldbench, or the first N conversations of each, into the run's folder ``worldbench``."""
    base, key, model = served(given)
    folder = (the_run(given) if not given.get("MODEL_URL") else run_named(given.get("RUN") or "worldbench")).path
    limit = config.scalar(given.get("N") or "1000000", "N")
    if not isinstance(limit, int) or limit < 1:
        raise ConfigError(f"N={given['N']!r}: give a number of conversations of at least 1")
    sizes = {split: min(size, limit) for split, size in worldbench.SIZES.items()}
    print(f"worldbench: {sum(sizes.values())} conversations with {base}", flush=True)
    print(worldbench.table(worldbench.run(base, key, model, folder / "worldbench", sizes)))
    print(folder / "worldbench" / "scores.json")
    return 0


def smoke_test(given: Mapping[str, str]) -> int:
    """1 where a call went wrong."""
    base, key, model = served(given)
    print(f"ten calls against {base}", flush=True)
    found = list(smoke.run(base, key, model))
    for name, well, what in found:
        print(f"  {'ok' if well else 'WRONG':6} {name:24} {what}")
    return 0 if all(well for _, well, _ in found) else 1


def write_iterations() -> int:
    path = ROOT / "docs" / "iterations.md"
    publish_bytes(path, iterations.render([run.path for run in known_runs()]).encode())
    print(path)
    return 0


def main(words: Sequence[str], given: Mapping[str, str]) -> int:
    command = words[0] if words else ""
    try:
        if command == "compare":
            return compare_runs(given)
        if command == "smoke":
            return smoke_test(given)
        if command == "worldbench":
            return bench_worlds(given)
        if command == "iterations":
            return write_iterations()
        if command == "publish":
            publish(the_run(given), given)
            return 0
        raise ConfigError("usage: python -m slurm.after compare | smoke | worldbench | publish | iterations")
    except OctupusError as error:
        print(f"octupus: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
