"""``data_recipes/lock.yaml``: which revision of what the hub holds was fetched, with the hash of every file.

Only ``make fetch`` writes it. What stands in it is what builds read from then on; another revision is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from octupus.config import RECIPES
from octupus.errors import ConfigError, DataError
from octupus.publish import publish_bytes

LOCK = RECIPES / "lock.yaml"
_HEAD = "# Written by `make fetch`: what was fetched. Take an entry out to fetch another revision of it.\n"
Kind = Literal["dataset", "model"]


class Fetched(BaseModel):
    """One repository of the hub at one revision."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    revision: str
    """The commit."""
    asked: str | None = None
    """What the recipe named then: a branch or tag, or nothing."""
    files: dict[str, str]
    """sha256 by path."""

    def check(self, name: str, revision: str | None) -> None:
        """Refuse another revision than this one.

        Raises:
            ConfigError: with both, and what to do.
        """
        if revision not in (None, self.revision, self.asked):
            raise ConfigError(
                f"{name}: the recipe asks for revision {revision}, but {LOCK.name} holds {self.revision}; leave the "
                f"recipe's revision out, or take the entry out of {LOCK} and run `make fetch` again"
            )


def read_lock(path: Path | None = None) -> dict[str, Fetched]:
    """Entries by ``kind:owner/name``; none where nothing was fetched.

    Raises:
        ConfigError: the file is broken.
    """
    path = path or LOCK
    if not path.is_file():
        return {}
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return {name: Fetched.model_validate(entry) for name, entry in raw.items()}
    except (yaml.YAMLError, ValidationError, AttributeError) as error:
        raise ConfigError(f"{path} is not readable ({error}); restore it, or delete it and fetch again") from error


def write_entry(name: str, entry: Fetched, path: Path | None = None) -> None:
    """Add or replace one entry."""
    path = path or LOCK
    entries = {**read_lock(path), name: entry}
    plain = {key: entries[key].model_dump(exclude_none=True) for key in sorted(entries)}
    publish_bytes(path, (_HEAD + yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)).encode())


def fetched(kind: Kind, id: str, revision: str | None) -> Fetched | None:
    """The entry of a repository, if there is one and the recipe does not ask for another revision.

    Raises:
        ConfigError: it does.
    """
    name = f"{kind}:{id}"
    entry = read_lock().get(name)
    if entry is not None:
        entry.check(name, revision)
    return entry


def check_files(entry: Fetched, found: dict[str, str], folder: Path) -> None:
    """Refuse files that are not those that were fetched; ``found`` has the sha256 of each by path below ``folder``.

    Raises:
        DataError: naming the first one, and what to do.
    """
    for path, sha256 in found.items():
        if entry.files.get(path, sha256) != sha256:
            raise DataError(
                f"is not the file that was fetched (sha256 {sha256[:16]}..., {LOCK.name} says "
                f"{entry.files[path][:16]}...); delete it and run `make fetch` again",
                source=str(folder / path),
            )
