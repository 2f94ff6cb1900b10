"""Is a returned call legal? A second opinion, built on json and jsonschema alone: it shares no code with the server."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.exceptions import Unresolvable


@dataclass(frozen=True)
class Verdict:
    status: Literal["legal", "cut", "not JSON", "not an object", "unknown tool", "breaks its schema"]
    detail: str = ""

    @property
    def usable(self) -> bool:
        """A call at all: a complete JSON object for a tool of the request, whatever its schema says of it."""
        return self.status in ("legal", "breaks its schema")


def judge(call: Mapping[str, Any], schemas: Mapping[str, Any]) -> Verdict:
    """``call``: name, arguments (text), perhaps incomplete; ``schemas``: parameters of its request's tools by name."""
    if call.get("incomplete"):
        return Verdict("cut")
    if call["name"] not in schemas:
        return Verdict("unknown tool", repr(call["name"]))
    try:
        value = json.loads(call["arguments"], object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, TypeError) as error:
        return Verdict("not JSON", str(error))
    if not isinstance(value, dict):
        return Verdict("not an object", type(value).__name__)
    schema = schemas[call["name"]]
    try:
        for problem in _validator(json.dumps({"maxProperties": 0} if schema is None else schema)).iter_errors(value):
            return Verdict("breaks its schema", f"{problem.json_path}: {problem.message[:200]}")
    except (Unresolvable, re.error) as error:
        return Verdict("breaks its schema", f"the schema itself cannot be read: {error}")
    return Verdict("legal")


def schemas_of(tools: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The parameters of tools in OpenAI's form, by name."""
    return {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools}


def tally(judged: Iterable[tuple[str, Mapping[str, Any], Verdict]]) -> dict[str, Any]:
    """Counts over ``(where, call, verdict)``; cut calls are counted apart, never among the complete ones."""
    statuses: Counter[str] = Counter()
    examples: list[dict[str, str]] = []
    for where, call, verdict in judged:
        statuses[verdict.status] += 1
        if verdict.status not in ("legal", "cut") and len(examples) < 20:
            shown = f"{call['name']}({call['arguments']})"[:500]
            examples.append({"where": where, "call": shown, "why": f"{verdict.status}: {verdict.detail}"})
    legal, cut, calls = statuses["legal"], statuses["cut"], statuses.total()
    reasons = {status: n for status, n in statuses.items() if status not in ("legal", "cut")}
    counts = {"calls": calls, "complete": calls - cut, "legal": legal, "illegal": calls - cut - legal, "cut": cut}
    return {**counts, "reasons": reasons, "examples": examples}


def satisfies(value: Any, schema: Any) -> bool:
    return _validator(json.dumps(schema)).is_valid(value)


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("an object holds a key twice")
    return dict(pairs)


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


@lru_cache(maxsize=4096)
def _validator(schema_text: str) -> Draft202012Validator:
    # The empty registry: a schema must not make the judge fetch from the network.
    return Draft202012Validator(_array_enums(json.loads(schema_text)), registry=Registry())


def _array_enums(schema: Any) -> Any:
    """An ``enum`` of scalars on an array means its items: BFCL writes it so, and the server reads it so."""
    if isinstance(schema, list):
        return [_array_enums(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    read = {key: value if key in ("enum", "const", "default") else _array_enums(value) for key, value in schema.items()}
    choices = read.get("enum")
    if read.get("type") == "array" and isinstance(choices, list) and not any(isinstance(c, list) for c in choices):
        items = read.get("items")
        read["items"] = {**(items if isinstance(items, dict) else {}), "enum": read.pop("enum")}
    return read
