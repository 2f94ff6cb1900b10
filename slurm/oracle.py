"""``make oracle``: what the path itself costs. A perfect model is the engine of our own server, for as many categories
at a time as it can tell apart.

The ground truth is rendered as wire tokens, which the constraint, the parser, the API and BFCL's own evaluation must
let pass. CATEGORIES, SET (``serve.constraint.enforce=false`` for the path without the constraint), MODEL (a folder
whose tokenizer is used; else a small one is made), RUN and WRONG=1 (a deliberately wrong model) come from make.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval import bfcl, ceiling
from eval.oracle import apart
from eval.sample import BfclData, cannot_run
from eval.weights import expand
from octupus import config
from octupus.config import Recipe
from octupus.errors import ConfigError, JobError, OctupusError
from octupus.publish import publish_json
from octupus.runs import Run
from slurm import measured
from slurm.beside import serve_command, served
from slurm.jobs import SurgeryJob
from slurm.submit import run_named

OFFLINE = "single_turn multi_turn memory_kv memory_rec_sum"
CONTEXT = 1 << 20
"""Tokens; a small vocabulary makes long prompts of BFCL's longest conversations."""


def tokenizer_folder(model: str, run: Run, recipe: Recipe) -> Path:
    """A model's folder, of which the oracle uses tokenizer and wire."""
    if model:
        if not (Path(model) / "tokenizer.json").is_file():
            raise ConfigError(f"MODEL={model}: no folder with a tokenizer.json")
        return Path(model).absolute()
    folder = run.path / "surgery/model"
    if not (folder / "config.json").is_file():
        print("making a small tokenizer", flush=True)
        SurgeryJob(str(run.path), "surgery").work(recipe, run)
    return folder


def measure(part: Run, recipe: Recipe, folder: Path, wanted: dict[str, int | None], mode: str) -> list[dict[str, Any]]:
    """Scores of some categories, in a run folder of their own."""
    shutil.rmtree(part.path, ignore_errors=True)
    asked = recipe.bfcl.model_copy(update={"categories": wanted, "models": ("octupus-FC",), "retries": 0})
    engine = {"engine": "eval.oracle:Oracle", "engine_args": {"categories": list(wanted), "mode": mode}}
    limits = {"max_model_len": CONTEXT, "default_max_tokens": 16384, "max_body_mb": 64}
    serve = recipe.serve.model_copy(update={**engine, **limits, "host": "127.0.0.1", "port": 0})
    with served(serve_command(serve, folder, part), part, "0", part.path / "server.out", serve.ready_timeout_s):
        bfcl.measure(recipe.model_copy(update={"bfcl": asked, "serve": serve}), part)
    return [ceiling.read(part.path / "bfcl", category) for category in wanted]


def main(given: Mapping[str, str]) -> int:
    """Exit code 0: every entry got an answer; 2: something that a user can mend."""
    words: Sequence[str] = shlex.split(given.get("SET", ""))
    try:
        recipe = config.load(given.get("RECIPE") or "demo", words)
        run, mode = (
            run_named(given.get("RUN") or "oracle"),
            "wrong" if given.get("WRONG") not in (None, "", "0") else "truth",
        )
        wanted = expand(measured.categories_of(given.get("CATEGORIES") or OFFLINE))
        folder = tokenizer_folder(given.get("MODEL", ""), run, recipe)
        reasons = {category: cannot_run(category, recipe.bfcl) for category in wanted}
        for category, reason in reasons.items():
            if reason is not None:
                print(f"{category:26} not run: {reason}", flush=True)
        found = []
        for group in apart(BfclData.ready(), [category for category, reason in reasons.items() if reason is None]):
            part = Run(run.path / group[0])
            try:
                found += measure(part, recipe, folder, {category: wanted[category] for category in group}, mode)
            except JobError as error:
                print(f"{', '.join(group)}: {error}", file=sys.stderr, flush=True)
                return error.exit_code
            print("\n".join(ceiling.line(one) for one in found[-len(group) :]), flush=True)
        found.sort(key=lambda one: list(wanted).index(one["category"]))
        publish_json(
            run.path / "oracle.json",
            {"mode": mode, "constraint": recipe.serve.constraint.model_dump(), "categories": found},
        )
        print(ceiling.report(found), flush=True)
    except OctupusError as error:
        print(f"octupus: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
