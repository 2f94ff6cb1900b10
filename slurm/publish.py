"""``make publish RUN=... REPO=owner/name``: weights, card, recipe, manifests and scores of a run to the hub.

DRY=1 lists every file with its licence and sends nothing; DATA=1 adds the conversations of those sources whose licence
is known to allow it. The token is the hub client's own (``HF_TOKEN``, or what its login stored), never ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from eval import report
from octupus.config import Recipe
from octupus.errors import ConfigError, JobError
from octupus.publish import publish_bytes, read_json
from octupus.runs import Run
from slurm.stage import frozen, newest_model

OPEN = re.compile(r"(apache-2\.0|mit|cc0-1\.0|cc-by-4\.0|cc-by-sa-4\.0|odc-by)\b", re.IGNORECASE)
"""Licences under which a data set may be passed on; whatever else a source says keeps it here."""


@dataclass(frozen=True)
class Item:
    """One file of the upload."""

    path: Path
    name: str
    """In the repository."""
    licence: str


class Hub(Protocol):
    """What is used of huggingface_hub's HfApi."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any: ...

    def upload_file(self, *, path_or_fileobj: str, path_in_repo: str, repo_id: str) -> Any: ...


def items(run: Run, model: Path, data: bool) -> tuple[list[Item], list[str]]:
    """What is uploaded, and which sources stay here and why.

    Raises:
        JobError: the run has no scores; an unmeasured model is not published.
    """
    if not (run.path / "bfcl/scores.json").is_file():
        raise JobError(f"run {run.name} has not been measured; first: make bfcl RUN={run.name}")
    ours = "Apache-2.0"
    found = [Item(path, path.name, "as the base model's") for path in sorted(model.iterdir()) if path.is_file()]
    card = run.path / "report" / "card.md"
    found = [Item(card, "README.md", ours), *(item for item in found if item.name != "README.md")]
    records: tuple[str, ...] = (
        "recipe.json",
        "bfcl/scores.json",
        "heldout/before.json",
        "heldout/after.json",
        "surgery/report.json",
    )
    records += ("data/report.json", "data/stage1/manifest.json", "data/stage2/manifest.json")
    found += [Item(run.path / name, name, ours) for name in records if (run.path / name).is_file()]
    stays = []
    for source in _sources(run) if data else ():
        if OPEN.match(source["licence"]):
            folder = source["folder"]
            found.append(Item(folder / "conversations.jsonl", f"data/{folder.name}.jsonl", source["licence"]))
        else:
            stays.append(f"{source['source']}: {source['licence']}")
    return found, stays


def _sources(run: Run) -> Iterator[dict[str, Any]]:
    """The cleaned sources of the build, without what is held out: that must stay unseen."""
    recipe = frozen(run).recipe
    heldout = {s.name for s in recipe.data.heldout} if recipe.data.heldout else set()
    for path in sorted((run.path / "data/clean").glob("*/report.json")):
        told: dict[str, Any] = read_json(path) or {"source": ""}
        split = re.search(r"split=(\w+)", told["source"])
        apart = split is not None and split.group(1) != "train" and told["source"].split("(")[0] in heldout
        if told["source"] and not apart and (path.parent / "conversations.jsonl").is_file():
            yield {**told, "folder": path.parent}


def card(run: Run, recipe: Recipe, model: Path, repo: str) -> str:
    """The model card: what training wrote of data and recipe, and with it how to serve the model and what it scored.

    Raises:
        JobError: not a model that was trained here.
    """
    from octupus.train.card import SCORES

    about = model / "README.md"
    told = about.read_text(encoding="utf-8") if about.is_file() else ""
    if SCORES not in told:
        raise JobError(f"{model} has no model card of ours; train it first: make stage1 stage2 RUN={run.name}")
    serve = f"python -m octupus.serve --model {repo} --max-model-len {recipe.serve.max_model_len}"
    measured = report.markdown(recipe, run).partition("\n")[2].strip()
    return told.replace(SCORES, f"{measured}\n\n## Use\n\n```\n{serve}\n```")


def publish(run: Run, given: Mapping[str, str], hub: Hub | None = None) -> None:
    """Upload, or with DRY=1 say what would be.

    Raises:
        ConfigError: no REPO, or one that is no hub name. JobError: no model, no scores, or the hub refuses.
    """
    repo, dry = given.get("REPO", ""), given.get("DRY", "") not in ("", "0")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ConfigError(
            f"REPO={repo!r} is no hub name; for instance make publish RUN={run.name} REPO=owner/{run.name}"
        )
    recipe, model = frozen(run).recipe, newest_model(run)
    found, stays = items(run, model, given.get("DATA", "") not in ("", "0"))
    publish_bytes(run.path / "report" / "card.md", card(run, recipe, model, repo).encode())
    for item in found:
        print(f"{item.name:44} {item.path.stat().st_size:>14,} bytes  {item.licence}")
    for reason in stays:
        print(f"not uploaded, the licence does not clearly allow it: {reason}")
    if dry:
        print(f"DRY=1: nothing was sent; {len(found)} files would go to {repo}")
        return
    if hub is None:
        from huggingface_hub import HfApi

        hub = HfApi()
    try:
        hub.create_repo(repo, private=True, exist_ok=True)
        for item in found:
            hub.upload_file(path_or_fileobj=str(item.path), path_in_repo=item.name, repo_id=repo)
    except (OSError, ValueError) as error:  # HfHubHTTPError is an OSError
        raise JobError(f"the hub refused {repo}: {error}; is HF_TOKEN set, and may it write there?") from error
    print(f"{len(found)} files are in {repo} (private until you change that)")
