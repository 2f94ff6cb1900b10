"""BFCL against an endpoint: tasks that generate, each a group of categories, then one job that scores.

Everything lies in ``<run>/bfcl``, the project root of the harness: result/, score/ (its own), subject.json (whose
answers these are), plan.json (which ids), entries.jsonl (each entry judged), scores.json (format_version 1). Whatever
is called again goes on: entries with an answer are kept, entries that ended in an inference error are asked again.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.endpoint import Server, find, identity, weights_folder
from eval.harness import Counter, Harness, evaluate, place_embedding
from eval.sample import BfclData, Plan, counter, harness_python, plan
from eval.scores import Entry, read_results, repeats, score_model
from octupus.config import Recipe
from octupus.errors import ConfigError, JobError
from octupus.publish import publish_bytes, publish_json, read_json
from octupus.runs import Run

TASKS = "bfcl/tasks"
"""Where each task keeps its state and progress."""


def generate(recipe: Recipe, run: Run, group: str | None = None) -> dict[str, Any]:
    """Ask the run's endpoint (or ``bfcl.url``) the categories of one group of weights.yaml; None: all of them.

    Raises:
        ConfigError: no BFCL environment, an unknown category, a ``.env`` that would lead the harness elsewhere.
        JobError: no endpoint came up, it died, or the harness did; names the log.
    """
    root, section = run.stage("bfcl").path, recipe.bfcl
    if not section.models or any("_" in name for name in section.models):
        raise ConfigError(f"bfcl.models {list(section.models)}: at least one, none with '_' (bfcl evaluate reads '/')")
    if (root / ".env").exists():
        raise ConfigError(f"{root / '.env'} would override the endpoint's address and key for BFCL; remove it")
    data, python = BfclData.ready(), harness_python()
    server = find(run, recipe)
    print(f"bfcl {group or 'all'}: measuring {server.endpoint.model} at {server.root_url}", flush=True)
    take_over(root, recipe, server)
    if section.embedding_model:
        place_embedding(root, section.embedding_model)
    chosen = plan(section, recipe.serve, data, counter(server.folder), group)
    for what, why in chosen.left_out.items():
        print(f"bfcl: not run: {what}: {why}", flush=True)
    names = [f"{name}={server.endpoint.model}" if section.url else name for name in chosen.ids]
    categories = {category for ids in chosen.ids.values() for category in ids}
    with run.stage(f"{TASKS}/{group or 'all'}").reporting(chosen.total, "entries") as reporter:
        count = Counter(root, chosen.ids, categories, reporter)
        harness = Harness(python, root, section, server, count, group or "all", names)
        for model, ids in chosen.ids.items():
            harness.ask(model, ids)
        return {"answers": count(), "asked": chosen.total}


def take_over(root: Path, recipe: Recipe, server: Server) -> None:
    """Answers of other weights, or to another way of asking, must not be mixed with these; they are kept aside."""
    serve = recipe.serve.model_dump(
        include={"engine", "engine_args", "model", "constraint", "default_max_tokens"}, mode="json"
    )
    told = json.dumps([identity(server), serve, recipe.bfcl.temperature], sort_keys=True)
    subject = hashlib.sha256(told.encode()).hexdigest()[:16]
    facts = {"served": server.endpoint.model, "fingerprint": server.endpoint.fingerprint, "url": recipe.bfcl.url}
    with _alone(root):
        set_aside_other_models(root, {"subject": subject, **facts, "constraint": serve["constraint"]})


def set_aside_other_models(root: Path, subject: dict[str, Any]) -> None:
    """Move answers of another subject than this one out of the way."""
    marker = root / "subject.json"
    before = read_json(marker)
    if before is not None and before["subject"] != subject["subject"] and (root / "result").exists():
        aside = root / f"result-of-{before['subject']}"
        shutil.rmtree(aside, ignore_errors=True)
        (root / "result").rename(aside)
        print(f"bfcl: another model is served now; the answers of the last one are in {aside}", flush=True)
    publish_json(marker, subject)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """One task at a time."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def score(recipe: Recipe, run: Run) -> dict[str, Any]:
    """Evaluate what the tasks left and publish ``bfcl/scores.json``.

    Raises:
        JobError: entries without an answer, with what each task said; or the evaluation failed.
    """
    root = run.stage("bfcl").path
    chosen = plan(
        recipe.bfcl,
        recipe.serve,
        BfclData.ready(),
        counter(None if recipe.serve.model or recipe.bfcl.url else weights_folder(run)),
    )
    check_complete(run, root, chosen)
    publish_json(root / "plan.json", asdict(chosen))
    with _alone(root):
        evaluate(harness_python(), root, chosen)
        return publish_scores(root, chosen)


def check_complete(run: Run, root: Path, chosen: Plan) -> None:
    """Raises JobError where an entry was never answered, not even with an error."""
    left = 0
    for model, ids in chosen.ids.items():
        have = read_results(root, model)
        left += sum(id not in have for asked in ids.values() for id in asked)
    if left:
        states = {p.parent.name: read_json(p) or {} for p in sorted((run.path / TASKS).glob("*/state.json"))}
        said = "; ".join(f"{n}: {s['reason']}" for n, s in states.items() if s.get("status") == "failed")
        raise JobError(
            f"{left} of {chosen.total} entries have no answer yet ({said or 'no task says why'}); what was answered is "
            f"kept: make bfcl RUN={run.name} goes on from there; logs are in {root / 'log'}"
        )


def publish_scores(root: Path, chosen: Plan) -> dict[str, Any]:
    """Write scores.json and entries.jsonl; returns the stage's outputs."""
    models, entries = {}, list[Entry]()
    for model, ids in chosen.ids.items():
        models[model], judged = score_model(root, model, ids)
        models[model]["stock_overall"] = _stock_overall(root, model)
        entries += judged
    scores = {
        "format_version": 1,
        "harness": "bfcl-eval 2026.3.23",
        **(read_json(root / "subject.json") or {}),
        "measured_at": time.time(),
        "main": chosen.main,
        "models": models,
        "repeats": repeats(models, chosen.main),
        "left_out": chosen.left_out,
    }
    rows = "".join(json.dumps(entry.as_json(), ensure_ascii=False) + "\n" for entry in entries)
    publish_bytes(root / "entries.jsonl", rows.encode())
    publish_json(root / "scores.json", scores)
    summaries = models[chosen.main]["summaries"]
    return {
        "scores": "bfcl/scores.json",
        "entries": len(entries),
        "errors": sum(m["errors"] for m in models.values()),
        "legality": {
            k: sum(m["legality"][k] for m in models.values()) for k in ("complete", "legal", "illegal", "cut")
        },
        "overall_v4": summaries["Overall v4"]["value"],
        "overall_v3": summaries["Overall v3"]["value"],
    }


def measure(recipe: Recipe, run: Run, groups: Sequence[str | None] = (None,)) -> dict[str, Any]:
    """All of it here and now, where no chain is needed."""
    for group in groups:
        generate(recipe, run, group)
    return score(recipe, run)


def _stock_overall(root: Path, model: str) -> str | None:
    """What the harness itself prints as Overall, where categories that were not run count zero."""
    path = root / "score" / "data_overall.csv"
    if not path.exists():
        return None
    with path.open(encoding="utf-8", newline="") as lines:
        return next((row["Overall Acc"] for row in csv.DictReader(lines) if row["Model"] == model), None)
