"""The one error hierarchy: every message says what went wrong, where, and what to do next.

Command-line entry points catch :class:`OctupusError`, print its text and exit with its code; anything else is a
bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the development cluster runs where nothing is installed
    from pydantic import BaseModel, ValidationError


class OctupusError(Exception):
    """Base of every error that a user can cause or mend."""

    exit_code = 1


class ConfigError(OctupusError):
    """A recipe, a cluster file, an override or a command line that cannot be used."""

    exit_code = 2


class DataError(OctupusError):
    """A row, file or data set that cannot be used.

    Args:
        reason: a short, countable reason (the same words for every row that fails alike).
        source: the data set's name, or the file.
        row: the row's id inside its source.
    """

    def __init__(self, reason: str, *, source: str = "", row: str | int | None = None) -> None:
        self.reason, self.source, self.row = reason, source, row
        where = source if row is None else f"{source} row {row}"
        super().__init__(f"{where}: {reason}" if where else reason)


class WireError(OctupusError):
    """A conversation that the wire format cannot carry, or a fingerprint that does not match."""


class ConstraintError(OctupusError):
    """A schema that cannot be enforced.

    Args:
        reason: what is wrong, in words.
        pointer: JSON pointer into the schema.
        keyword: the JSON Schema keyword at fault.
    """

    def __init__(self, reason: str, *, pointer: str = "", keyword: str = "") -> None:
        self.reason, self.pointer, self.keyword = reason, pointer, keyword
        at = f" at {pointer or '/'}" if pointer or keyword else ""
        super().__init__(f"{reason}{at}{f' (keyword {keyword!r})' if keyword else ''}")


class Unsatisfiable(ConstraintError):
    """A schema that no value satisfies: nothing is wrong with it, but its function can never be called."""


class JobError(OctupusError):
    """A stage that failed, or an endpoint that never came up; names the log."""


class Lost(JobError):
    """Something outside the job's hands ended it (a peer, a node, its server): the same job may well succeed."""

    exit_code = 75


class Interrupted(Lost):
    """A job stopped because a signal asked; what it had done is kept, and the same job goes on from there."""


class Superseded(JobError):
    """A newer start of the same job has taken over (this one's node was given up for dead): it must write no more."""

    exit_code = 76


def explain(error: ValidationError, model: type[BaseModel], what: str) -> str:
    """A pydantic error as sentences: each key at fault, what is wrong with it, and the keys that exist there."""
    lines = []
    for issue in error.errors():
        path = [str(p) for p in issue["loc"]]
        where = ".".join(path) or "(top)"
        if issue["type"] == "extra_forbidden":
            valid = _keys_at(model, path[:-1])
            near = difflib.get_close_matches(path[-1], valid, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            lines.append(f"{where}: unknown key; {hint}valid keys: {', '.join(valid)}")
        else:
            lines.append(f"{where}: {issue['msg'].removeprefix('Value error, ')}")
    return f"{what}: " + "; ".join(lines)


def _keys_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    found: Any = model
    for key in path:
        field = getattr(found, "model_fields", {}).get(key)
        if field is not None:
            found = _model_in(field.annotation)
    return sorted(getattr(found, "model_fields", ()))


def _model_in(annotation: Any) -> Any:
    if hasattr(annotation, "model_fields"):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _model_in(inner)
        if found is not None:
            return found
    return None
