"""``make oracle``: what the path itself costs. A perfect model is the engine of our own server, one category at a time.

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
from eval.sample import cannot_run
from eval.weights import expand
from octupus import config
from octupus.config import Recipe
from octupus.errors import ConfigError, JobError, OctupusError
from octupus.runs import Run, publish_json
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


def measure(run: Run, recipe: Recipe, folder: Path, category: str, count: int | None, mode: str) -> dict[str, Any]:
    """Scores of one category, in a run folder of its own."""
    part = Run(run.path / category)
    shutil.rmtree(part.path, ignore_errors=True)
    asked = recipe.bfcl.model_copy(update={"categories": {category: count}, "models": ("octupus-FC",), "retries": 0})
    engine = {"engine": "eval.oracle:Oracle", "engine_args": {"categories": [category], "mode": mode}}
    limits = {"max_model_len": CONTEXT, "default_max_tokens": 16384, "max_body_mb": 64}
    serve = recipe.serve.model_copy(update={**engine, **limits, "host": "127.0.0.1", "port": 0})
    with served(serve_command(serve, folder, part), part, "0", part.path / "server.out", 120):
        bfcl.measure(recipe.model_copy(update={"bfcl": asked, "serve": serve}), part)
    return ceiling.read(part.path / "bfcl", category)


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
        found = []
        for category, count in wanted.items():
            reason = cannot_run(category, recipe.bfcl)
            if reason is not None:
                print(f"{category:26} not run: {reason}", flush=True)
                continue
            try:
                found.append(measure(run, recipe, folder, category, count, mode))
            except JobError as error:
                print(f"{category}: {error}", file=sys.stderr, flush=True)
                return error.exit_code
            print(ceiling.line(found[-1]), flush=True)
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
