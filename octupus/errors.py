"""The one error hierarchy: every message says what went wrong, where, and what to do next.

Command-line entry points catch :class:`OctupusError`, print its text and exit with its code; anything else is a
bug and keeps its traceback.
"""

from __future__ import annotations


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
