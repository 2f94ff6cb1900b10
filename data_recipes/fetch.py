"""``make fetch``: everything that a recipe names on the hub, once, where there is internet; builds then need none.

The sizes are printed first. A fetch that was interrupted goes on with the file that it was at. HF_ENDPOINT names a
mirror, HF_HOME the cache, HF_TOKEN opens what asks for a licence to be accepted.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from octupus.config import Recipe, load
from octupus.data.lock import LOCK, Fetched, Kind, read_lock, write_entry
from octupus.data.sources import ROWS, hub_id
from octupus.errors import ConfigError, DataError, OctupusError

PAPERS = ("README*", "LICENSE*", "NOTICE*")
WANTED = {
    "dataset": (*ROWS, *PAPERS),
    "model": ("*.json", "*.safetensors", "*.jinja", "merges.txt", *PAPERS),
}


@dataclass(frozen=True)
class Wanted:
    """One repository of the hub that a recipe names."""

    kind: Kind
    id: str
    revision: str | None

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.id}"


@dataclass(frozen=True)
class Listed:
    """What the hub says of it: the commit, and of each wanted file its bytes and, where published, its sha256."""

    wanted: Wanted
    commit: str
    sizes: dict[str, int]
    published: dict[str, str]


def named(recipe: Recipe) -> list[Wanted]:
    """Data sets (those of the teacher's prompts too), base model and teacher; what lies in a folder is left out.

    Raises:
        ConfigError: two revisions of one repository.
    """
    found: dict[str, Wanted] = {}
    sections = [*recipe.data.stage1.sources, *recipe.data.stage2.sources, *recipe.data.heldout]
    for section in (*sections, *recipe.teacher.prompts):
        hub = hub_id(section)
        if hub is not None:
            _note(found, Wanted("dataset", hub, section.revision))
    models = [(recipe.model.base, recipe.model.revision)]
    if recipe.teacher.engine == "vllm":
        models.append((recipe.teacher.model, None))
    for model, revision in models:
        if model is not None and model.count("/") == 1 and not Path(model).exists():
            _note(found, Wanted("model", model, revision))
    return list(found.values())


def _note(found: dict[str, Wanted], wanted: Wanted) -> None:
    other = found.setdefault(wanted.name, wanted)
    if other.revision != wanted.revision:
        raise ConfigError(f"{wanted.name}: the recipe names revisions {other.revision} and {wanted.revision}; name one")


def listed(wanted: Wanted, known: Fetched | None) -> Listed:
    """Ask the hub.

    Raises:
        ConfigError: the recipe asks for another revision than the lock. DataError: no answer, or nothing to fetch.
    """
    from huggingface_hub import HfApi

    if known is not None:
        known.check(wanted.name, wanted.revision)
    revision = known.revision if known is not None else wanted.revision
    with _hub(wanted, revision):
        info: Any = HfApi().repo_info(wanted.id, repo_type=wanted.kind, revision=revision, files_metadata=True)
    files = [f for f in info.siblings if any(fnmatch(f.rfilename, pattern) for pattern in WANTED[wanted.kind])]
    if not files:
        raise DataError(f"holds nothing of {', '.join(WANTED[wanted.kind])}", source=wanted.name)
    sums = {f.rfilename: f.lfs.sha256 for f in files if f.lfs is not None}
    return Listed(wanted, info.sha, {f.rfilename: f.size or 0 for f in files}, sums)


def missing(found: Listed) -> dict[str, int]:
    """The files that are not on this machine yet, with their bytes."""
    from huggingface_hub import try_to_load_from_cache

    wanted = found.wanted
    return {
        file: size
        for file, size in found.sizes.items()
        if not isinstance(try_to_load_from_cache(wanted.id, file, revision=found.commit, repo_type=wanted.kind), str)
    }


def fetch(found: Listed, known: Fetched | None) -> Fetched:
    """Download what is missing, hash every file, and hold it against what was published and what the lock says.

    Raises:
        DataError: the hub cannot be reached, the disk is full, or a file is not what it should be.
    """
    from huggingface_hub import constants, snapshot_download

    wanted = found.wanted
    with _hub(wanted, found.commit):
        folder = Path(
            snapshot_download(
                wanted.id, repo_type=wanted.kind, revision=found.commit, allow_patterns=sorted(found.sizes)
            )
        )
    hashes = {}
    for file in sorted(found.sizes):
        with (folder / file).open("rb") as stream:
            hashes[file] = hashlib.file_digest(stream, "sha256").hexdigest()
        locked = None if known is None else known.files.get(file)
        for what, right in (("the hub", found.published.get(file)), (LOCK.name, locked)):
            if right is not None and right != hashes[file]:
                raise DataError(
                    f"has sha256 {hashes[file][:16]}..., {what} says {right[:16]}...; delete it and fetch again",
                    source=str(folder / file),
                )
    # Whoever asks the cache by name alone, with the hub offline, gets this revision.
    ref = Path(constants.HF_HUB_CACHE) / folder.parents[1].name / "refs" / (wanted.revision or "main")
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(found.commit)
    return Fetched(revision=found.commit, asked=wanted.revision, files=hashes)


@contextmanager
def _hub(wanted: Wanted, revision: str | None) -> Iterator[None]:
    """The hub's errors as sentences."""
    from huggingface_hub import constants, errors

    where = constants.ENDPOINT
    try:
        yield
    except errors.GatedRepoError as error:
        why = f"asks for its conditions to be accepted at {where}; then set HF_TOKEN and fetch again"
        raise DataError(why, source=wanted.name) from error
    except errors.RepositoryNotFoundError as error:
        why = f"is not at {where}, or is private; check the name, or set HF_TOKEN"
        raise DataError(why, source=wanted.name) from error
    except errors.RevisionNotFoundError as error:
        why = f"has no revision {revision!r} at {where}; correct the recipe, or take the entry out of {LOCK}"
        raise DataError(why, source=wanted.name) from error
    except errors.OfflineModeIsEnabled as error:
        raise DataError("HF_HUB_OFFLINE is set; unset it to fetch", source=wanted.name) from error
    except (errors.HTTPError, errors.LocalEntryNotFoundError, errors.RevisionResolutionError) as error:
        why = (
            f"the hub at {where} cannot be reached or gave no answer ({str(error).splitlines()[0][:120]}); check the "
            "network or set HF_ENDPOINT to a mirror, then fetch again: what is finished is kept"
        )
        raise DataError(why, source=wanted.name) from error
    except OSError as error:
        why = f"cannot be written: {error.strerror or error}; free some space or set HF_HOME, then fetch again"
        raise DataError(why, source=str(error.filename or wanted.name)) from error


def run(recipe: Recipe) -> None:
    """List everything, print the sizes, then fetch one repository after the other.

    Raises:
        OctupusError: what cannot be fetched, and why.
    """
    from huggingface_hub import constants

    lock = read_lock()
    found = [listed(wanted, lock.get(wanted.name)) for wanted in named(recipe)]
    if not found:
        print(f"fetch: recipe {recipe.name} names nothing on the hub")
        return
    left = 0
    for one in found:
        more = sum(missing(one).values())
        left += more
        size = f"{_size(sum(one.sizes.values()))} in {len(one.sizes)} files, {_size(more)} to fetch"
        print(f"fetch: {one.wanted.name} at {one.commit[:12]}: {size}")
    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    print(f"fetch: {_size(left)} in all into {cache}, where {_size(free)} are free", flush=True)
    if left > free:
        raise DataError(f"{_size(left)} are to be fetched and {_size(free)} are free; set HF_HOME", source=str(cache))
    for one in found:
        write_entry(one.wanted.name, fetch(one, lock.get(one.wanted.name)))
        print(f"fetch: {one.wanted.name} is here", flush=True)


def _size(count: float) -> str:
    power = min(3, max(0, (len(str(int(count))) - 1) // 3))
    return f"{count / 1000**power:.4g} {('B', 'KB', 'MB', 'GB')[power]}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_recipes.fetch", description=__doc__)
    parser.add_argument("--recipe", default="v2")
    parser.add_argument("--set", nargs="*", default=[], metavar="path=value")
    chosen = parser.parse_args(arguments)
    try:
        run(load(chosen.recipe, chosen.set))
    except OctupusError as error:
        print(f"fetch: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nfetch: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
