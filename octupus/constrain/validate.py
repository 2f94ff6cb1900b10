"""Values judged by their schema, with code that shares nothing with the masks: a Rust validator, linear-time patterns.

A user's ``pattern`` never reaches Python's ``re``, which can be neither interrupted nor bounded.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jsonschema_rs

from octupus.constrain.schema import escape
from octupus.errors import ConstraintError

MAX_PROBLEMS = 20
_PATTERNS = jsonschema_rs.RegexOptions(size_limit=1 << 20, dfa_size_limit=1 << 20)


class Validator:
    """A compiled schema (draft 2020-12; ``format`` is an annotation, unless ``formats``).

    Raises:
        ConstraintError: no valid schema, or a pattern that linear time cannot match (lookaround, back references).
    """

    def __init__(self, schema: dict[str, Any] | bool, formats: bool = False) -> None:
        try:
            self._validator = jsonschema_rs.Draft202012Validator(
                schema, pattern_options=_PATTERNS, offline=True, validate_formats=formats
            )
        except jsonschema_rs.ValidationError as error:
            pointer = "".join(map(escape, error.instance_path))
            reason = f"the schema cannot be validated against: {error.message[:300]}"
            raise ConstraintError(reason, pointer=pointer, keyword=pointer.split("/")[-1]) from error
        except ValueError as error:
            raise ConstraintError(f"the schema cannot be validated against: {str(error)[:300]}") from error

    def admits(self, value: Any) -> bool:
        """Whether ``value`` satisfies the schema."""
        return bool(self._validator.is_valid(value))

    def problems(self, value: Any) -> list[str]:
        """What is wrong with ``value``, each with its JSON pointer and the keyword; empty where nothing is."""
        found = []
        try:
            errors = self._validator.iter_errors(value)
        except UnicodeEncodeError:
            raise
        except ValueError:  # the validator's own limit
            return ["/: nested too deeply to be judged"]
        for error in errors:
            pointer = "".join(map(escape, error.instance_path)) or "/"
            keyword = next((str(step) for step in reversed(error.schema_path) if isinstance(step, str)), "false")
            found.append(f"{pointer}: {error.message[:500]} (keyword {keyword!r})")
            if len(found) == MAX_PROBLEMS:
                break
        return found


@lru_cache(maxsize=1024)
def matches(pattern: str) -> Validator:
    """Of strings that match ``pattern``."""
    return Validator({"pattern": pattern})


def validate(schema: dict[str, Any] | bool, value: Any) -> list[str]:
    """The problems of ``value``, each with its JSON pointer; empty where it satisfies ``schema``.

    Raises:
        ConstraintError: see :class:`Validator`. Bound a foreign schema's depth before (``compile_schema`` does).
    """
    return Validator(schema).problems(value)
