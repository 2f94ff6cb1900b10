"""A model or a server that no recipe trained, as a recipe: ``make bfcl MODEL=...`` and ``make bfcl MODEL_URL=...``.

``python -m slurm.measured`` measures MODEL_URL here and now. It needs nothing but BFCL's own environment: no torch, no
submitit, no vLLM.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from octupus.config import ModelSection, Recipe, WireSection
from octupus.errors import ConfigError, OctupusError
from octupus.publish import publish_json, read_json


def categories_of(text: str) -> dict[str, int | None]:
    """``simple_python multiple:20 live`` as a recipe has it.

    Raises:
        ConfigError: a number that is none.
    """
    pairs = [word.partition(":") for word in text.replace(",", " ").split()]
    wrong = [count for _, sign, count in pairs if sign and not count.isdigit()]
    if wrong:
        raise ConfigError(f"CATEGORIES: {wrong[0]!r} is no number; for instance CATEGORIES='simple_python multiple:20'")
    return {name: int(count) if count else None for name, _, count in pairs}


def with_categories(recipe: Recipe, text: str) -> Recipe:
    """The recipe with these categories in place of its own.

    Raises:
        ConfigError: one that does not exist.
    """
    from eval.weights import expand

    wanted = categories_of(text)
    expand(wanted)
    return recipe.model_copy(update={"bfcl": recipe.bfcl.model_copy(update={"categories": wanted})})


def recipe_of(model: str, url: str, like: Recipe) -> Recipe:
    """A recipe that trains nothing: serve and bfcl are those of ``like``.

    Raises:
        ConfigError: no address.
    """
    if url and not re.fullmatch(r"https?://[^/\s]+(/\S*)?", url):
        raise ConfigError(f"MODEL_URL={url!r} is no address; for instance MODEL_URL=http://localhost:8000/v1")
    if model and not url and model.startswith(("/", ".", "~")) and not (Path(model) / "config.json").is_file():
        raise ConfigError(f"MODEL={model}: no folder with a config.json; name one, or a hub id (owner/name)")
    name = re.sub(r"[^\w.+-]+", "-", model.rstrip("/").split("/")[-1] or url.split("://")[1]).strip("-.") or "model"
    saved = None if url else read_json(Path(model) / "wire.json")
    dialect = like.wire.dialect if url else "qwen" if saved is None else saved["dialect"]["name"]
    bfcl = like.bfcl.model_copy(update={"url": url or None, "url_model": model or None} if url else {})
    serve = like.serve if url else like.serve.model_copy(update={"model": model})
    base = ModelSection(base=model or url)
    return Recipe(name=name, model=base, wire=WireSection(dialect=dialect), serve=serve, bfcl=bfcl)


def main(given: Mapping[str, str]) -> int:
    """Ask, score and report; errors that a user can mend are one sentence and an exit code."""
    from eval import report, weights
    from eval.endpoint import find
    from slurm.jobs import BfclJob, ReportJob, ScoreJob
    from slurm.stage import Frozen
    from slurm.submit import Asked, resolve

    try:
        asked = Asked.of(["stage", "bfcl"], given)
        recipe, run = resolve(asked)
        if asked.dry:
            print(f"would measure {asked.url} into {run.path}: {', '.join(weights.expand(recipe.bfcl.categories))}")
            return 0
        find(run, recipe)  # one sentence, rather than one of each task
        publish_json(run.path / "recipe.json", Frozen(recipe=recipe))
        print(f"run {run.name}: {run.path}", flush=True)
        failed = [
            task for task in weights.tasks(recipe.bfcl.categories) if _fails(BfclJob(str(run.path), "bfcl", task=task))
        ]
        if _fails(ScoreJob(str(run.path), "score")) or _fails(ReportJob(str(run.path), "report")):
            return 1
        report.terminal(run)
        print(f"report: {run.path / 'report' / 'index.html'}")
        return 1 if failed else 0
    except OctupusError as error:
        print(f"octupus: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"\nstopped; what was answered is kept: {asked.again} goes on from here", file=sys.stderr)
        return 130


def _fails(job: Callable[[], None]) -> bool:
    """Run a job; where it fails it has said why."""
    try:
        job()
    except SystemExit:
        return True
    return False


if __name__ == "__main__":
    sys.exit(main(os.environ))
