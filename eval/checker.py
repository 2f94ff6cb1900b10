"""Is a returned call legal? A second opinion, built on json and jsonschema alone: it shares no code with the server."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from jsonschema import Draft202012Validator
from referencing import Registry

Status = Literal["legal", "cut", "not JSON", "not an object", "unknown tool", "breaks its schema"]


@dataclass(frozen=True)
class Verdict:
    status: Status
    detail: str = ""

    @property
    def malformed(self) -> bool:
        """Cannot be used at all, whatever the benchmark makes of it."""
        return self.status in ("cut", "not JSON", "not an object", "unknown tool")


@dataclass
class Tally:
    """Counts over calls; ``cut`` ones are complete neither in number nor in share."""

    legal: int = 0
    illegal: int = 0
    cut: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, str]] = field(default_factory=list)

    def add(self, verdict: Verdict, where: str, call: Mapping[str, Any]) -> None:
        if verdict.status == "legal":
            self.legal += 1
        elif verdict.status == "cut":
            self.cut += 1
        else:
            self.illegal += 1
            self.reasons[verdict.status] += 1
            if len(self.examples) < 20:
                shown = json.dumps({"name": call["name"], "arguments": call["arguments"]}, ensure_ascii=False)
                self.examples.append(
                    {"where": where, "call": shown[:500], "why": f"{verdict.status}: {verdict.detail}"}
                )

    def as_json(self) -> dict[str, Any]:
        complete = self.legal + self.illegal
        return {
            "calls": complete + self.cut,
            "complete": complete,
            "legal": self.legal,
            "illegal": self.illegal,
            "cut": self.cut,
            "reasons": dict(self.reasons),
            "examples": self.examples,
        }


def judge(call: Mapping[str, Any], tools: Iterable[Mapping[str, Any]]) -> Verdict:
    """``call``: name, arguments (text), perhaps incomplete; ``tools``: those of its request, in OpenAI's form."""
    offered = {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools}
    return judge_against(call, call["name"] in offered, offered.get(call["name"]))


def judge_against(call: Mapping[str, Any], offered: bool, parameters: Any) -> Verdict:
    """As :func:`judge`, where the tool has been looked up already: whether it was offered, and its schema."""
    if call.get("incomplete"):
        return Verdict("cut")
    if not offered:
        return Verdict("unknown tool", repr(call["name"]))
    try:
        value = json.loads(call["arguments"], object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, TypeError) as error:
        return Verdict("not JSON", str(error))
    if not isinstance(value, dict):
        return Verdict("not an object", type(value).__name__)
    schema = {"type": "object", "additionalProperties": False} if parameters is None else parameters
    for problem in _validator(json.dumps(schema)).iter_errors(value):
        return Verdict("breaks its schema", f"{problem.json_path}: {problem.message[:200]}")
    return Verdict("legal")


def satisfies(value: Any, schema: Any) -> bool:
    return _validator(json.dumps(schema)).is_valid(value)


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object holds a key twice")
    return value


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
        del read["enum"]
        items = read.get("items")
        read["items"] = {**(items if isinstance(items, dict) else {}), "enum": choices}
    return read
