"""``make bfcl CHECKPOINTS=all``: BFCL of every kept checkpoint of a run, for the report's score over training.

One after the other on this machine: the weights are gathered into a folder, served, measured, and the folder goes. What
has been measured with the same categories is not measured again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from eval import bfcl
from eval.figures import CHECKPOINTS, rows_of
from octupus.config import Recipe
from octupus.errors import ConfigError, OctupusError
from octupus.publish import append_jsonl, read_json
from octupus.runs import Run
from slurm import measured
from slurm.beside import serve_command, served
from slurm.status import the_run
from slurm.submit import frozen


def kept(run: Run) -> Iterator[tuple[str, int, Path]]:
    """Stage, step and folder of every whole checkpoint, the first one first."""
    for stage in ("stage1", "stage2"):
        for marker in sorted((run.path / stage / "checkpoints").glob("step-*/complete.json")):
            yield stage, int(marker.parent.name.removeprefix("step-")), marker.parent


def measure(recipe: Recipe, run: Run, stage: str, step: int, checkpoint: Path, what: str) -> None:
    """Append one line to the run's checkpoints.jsonl."""
    from octupus.train.unshard import unshard

    part, section = (
        Run(run.path / "bfcl-checkpoints" / f"{stage}-{step}-{what}"),
        recipe.stage1 if stage == "stage1" else recipe.stage2,
    )
    model = part.path / "model"
    if not (model / "config.json").is_file():
        unshard(checkpoint, run.path / "surgery/model", model, section.precision)
    anywhere = recipe.serve.model_copy(update={"model": str(model), "port": 0})
    here = recipe.model_copy(update={"serve": anywhere})
    with served(serve_command(anywhere, model, part), part, "0", part.path / "server.out", anywhere.ready_timeout_s):
        bfcl.measure(here, part)
    scores = read_json(part.path / "bfcl/scores.json")
    assert scores is not None
    v3, counts = (
        scores["models"][scores["main"]]["summaries"]["Overall v3"],
        scores["models"][scores["main"]]["categories"],
    )
    row = {"stage": stage, "step": step, "value": v3["value"], "interval": v3["interval"], "covered": v3["covered"]}
    append_jsonl(run.path / CHECKPOINTS, {**row, "entries": sum(c["n"] for c in counts.values()), "what": what})
    shutil.rmtree(model)


def main() -> int:
    given = os.environ
    try:
        if given.get("CHECKPOINTS") != "all":
            raise ConfigError(f"CHECKPOINTS={given.get('CHECKPOINTS')!r} is not known: all")
        run = the_run(given)
        recipe = frozen(run).recipe
        if given.get("CATEGORIES"):
            recipe = measured.with_categories(recipe, given["CATEGORIES"])
        asked = json.dumps([recipe.bfcl.model_dump(mode="json"), recipe.serve.constraint.model_dump()], sort_keys=True)
        what = hashlib.sha256(asked.encode()).hexdigest()[:8]
        known = {(row["stage"], row["step"]) for row in rows_of(run.path / CHECKPOINTS) if row["what"] == what}
        found = list(kept(run))
        if not found:
            raise ConfigError(f"run {run.name} keeps no checkpoint")
        for stage, step, checkpoint in found:
            if (stage, step) in known:
                print(f"{stage} step {step}: measured before with the same categories", flush=True)
                continue
            print(f"{stage} step {step}", flush=True)
            measure(recipe, run, stage, step, checkpoint, what)
        print(f"{len(found)} checkpoints; make report RUN={run.name} draws them")
    except OctupusError as error:
        print(f"octupus: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
