"""A data set as a plug-in: the module ``data_recipes.sources.<name>``, found by name so that no room imports it.

A source module holds::

    LICENCE: str            # as its card states it
    HUB: str | None         # hub id; "run:<path>" for what the run itself made; None where nothing is read
                            # (both may be mappings from the option ``variant``, the default one first)
    def rows(path: Path | None, **options) -> Iterator[dict]    # options are the recipe's
    def to_conversation(row: dict) -> Conversation              # DataError(reason) for a row that cannot be used

In a reason, the words before the first ``": "`` are what is counted; what follows is this row's detail.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast

from pydantic import ValidationError

from octupus.config import SourceSection
from octupus.data.files import SUFFIXES, code_hash
from octupus.data.lock import Fetched, fetched
from octupus.errors import ConfigError, DataError
from octupus.runs import Run
from octupus.wire.messages import Conversation

PACKAGE = "data_recipes.sources"
ROWS = tuple(f"*{suffix}" for suffix in SUFFIXES)
"""Files of a data set on the hub that hold rows."""
Row = tuple[str, dict[str, Any]]
"""A row with its id."""
MOST = 500
"""Characters of a row's id or reason that are kept."""


def shown(text: str) -> str:
    """What a row says, as files, pages and terminals can carry it: escaped where it is not printable, and cut."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:MOST])


class SourceModule(Protocol):
    """What a module of ``data_recipes.sources`` offers."""

    LICENCE: str | Mapping[str, str]
    HUB: str | Mapping[str, str | None] | None

    def rows(self, path: Path | None, **options: Any) -> Iterator[dict[str, Any]]: ...

    def to_conversation(self, row: dict[str, Any]) -> Conversation: ...


@dataclass(frozen=True)
class Source:
    """One entry of a mixture, bound to its module and to where its rows lie."""

    section: SourceSection
    module: SourceModule
    path: Path | None
    fetched: Fetched | None = None
    """What the lock says of it."""

    @property
    def label(self) -> str:
        """Name, file and options, as reports show it."""
        shown = [] if self.section.path is None else [Path(self.section.path).name]
        shown += [f"{k}={v}" for k, v in self.section.options.items()]
        return f"{self.section.name}({', '.join(shown)})" if shown else self.section.name

    @property
    def licence(self) -> str:
        return str(of_variant(self.module.LICENCE, self.section))

    def rows(self) -> Iterator[Row]:
        """(row id, row): the row's own ``id`` where it has one, else its number."""
        for number, row in enumerate(islice(self.module.rows(self.path, **self.section.options), self.section.limit)):
            name = row.get("id")
            yield shown(str(name) if isinstance(name, str | int) else str(number)), row

    def conversation(self, row_id: str, row: dict[str, Any]) -> Conversation:
        """The row as a conversation.

        Raises:
            DataError: with source and row filled in.
        """
        try:
            return self.module.to_conversation(row)
        except DataError as error:
            raise DataError(error.reason, source=self.label, row=row_id) from error
        except ValidationError as error:
            first = error.errors()[0]
            why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise DataError(f"no legal conversation: {why}", source=self.label, row=row_id) from error
        except (KeyError, TypeError, AttributeError, ValueError, IndexError, RecursionError) as error:
            # One odd row among millions is counted; were it all of them, the source's rejection rate stops the build.
            why = f"{type(error).__name__} {error}"
            raise DataError(f"not of this source's shape: {why}", source=self.label, row=row_id) from error


def rows_code() -> str:
    """Hash of the code and word lists that make rows, not of the recipes: what other code made is made anew."""
    return code_hash(_folder().parent, Path(__file__).parent)


def open_source(section: SourceSection, run: Run) -> Source:
    """Find the module and the rows of a mixture's entry.

    Raises:
        ConfigError: no such source (with those that exist), or an option that it does not know.
        DataError: its rows are not on this machine.
    """
    module = _module(section.name)
    try:
        inspect.signature(module.rows).bind(None, **section.options)
    except TypeError as error:
        raise ConfigError(f"source {section.name!r}: its options do not fit: {error}") from error
    return Source(section, module, *_where(section, module, run))


def bound(section: SourceSection, path: Path | None) -> Source:
    """A source whose rows have been found before."""
    return Source(section, _module(section.name), path)


def _module(name: str) -> SourceModule:
    try:
        return cast(SourceModule, importlib.import_module(f"{PACKAGE}.{name}"))
    except ModuleNotFoundError as error:
        if error.name != f"{PACKAGE}.{name}":
            raise
        known = sorted(p.stem for p in _folder().glob("*.py") if p.stem != "__init__")
        raise ConfigError(f"no data source {name!r}; choose one of: {', '.join(known)}") from error


def _folder() -> Path:
    return Path(next(iter(importlib.import_module(PACKAGE).__path__)))


def of_variant(value: str | Mapping[str, Any] | None, section: SourceSection) -> str | None:
    """What a source states for the section's ``variant``.

    Raises:
        ConfigError: no such variant.
    """
    if value is None or isinstance(value, str):
        return value
    variant = section.options.get("variant", next(iter(value)))
    if variant not in value:
        raise ConfigError(f"source {section.name!r}: no variant {variant!r}; choose one of: {', '.join(value)}")
    found: str | None = value[variant]
    return found


def hub_id(section: SourceSection) -> str | None:
    """The data set's name on the hub, or None where the source reads something else."""
    found = None if section.path is not None else of_variant(_module(section.name).HUB, section)
    return None if found is None or found.startswith("run:") else found


def _where(section: SourceSection, module: SourceModule, run: Run) -> tuple[Path | None, Fetched | None]:
    """Where the rows lie and, where they come from the hub, what was fetched."""
    if section.path is not None:
        return Path(section.path), None
    stated, hub = of_variant(module.HUB, section), hub_id(section)
    if hub is None:
        return (None if stated is None else run.path / stated.removeprefix("run:")), None
    from huggingface_hub import snapshot_download  # only this needs the hub's client

    entry = fetched("dataset", hub, section.revision)
    revision = section.revision if entry is None else entry.revision
    try:
        kept = snapshot_download(
            hub, repo_type="dataset", revision=revision, allow_patterns=[*ROWS], local_files_only=True
        )
        return Path(kept), entry
    except (OSError, ValueError) as error:
        raise DataError(
            f"{hub} is not on this machine; run `make fetch`, or give the source a `path` in the recipe",
            source=section.name,
        ) from error
