"""Random walks through the masks, and a judge of what comes out that shares no code with them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import jsonschema
import numpy as np

from octupus.constrain import Constraint, Vocabulary
from octupus.wire import (
    ArgumentsDelta,
    CallEnd,
    CallStart,
    ContentDelta,
    ResponseFormat,
    Tool,
    ToolChoice,
    TurnEnd,
    Wire,
)

TOOLS: list[dict[str, Any]] = [
    {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 8},
                "unit": {"enum": ["celsius", "fahrenheit", 'a "quoted"\nunit', 1, 10, None, {"x": [1.0]}]},
                "days": {"type": "integer"},
                "wind": {"type": ["number", "null"]},
            },
            "required": ["city"],
        },
    },
    {"name": "get_weather_now", "parameters": {"type": "object", "properties": {}}},
    {
        "name": "查询天气",
        "parameters": {
            "type": "object",
            "properties": {
                "城市": {"type": "string", "minLength": 2, "maxLength": 3},
                "tags": {
                    "type": "array",
                    "items": {"type": "object", "properties": {"n": {"type": "number"}}},
                    "maxItems": 2,
                },
                "mode": {"anyOf": [{"const": "fast"}, {"type": "string", "maxLength": 2}, {"type": "boolean"}]},
            },
            "required": ["tags"],
            "additionalProperties": False,
        },
    },
    {
        "name": "tree",
        "parameters": {
            "$defs": {
                "node": {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}}}
            },
            "$ref": "#/$defs/node",
            "required": ["v"],
        },
    },
    {"name": "free", "parameters": {"type": "object"}},
]


def tools(specs: Sequence[dict[str, Any]] = TOOLS) -> tuple[Tool, ...]:
    return tuple(Tool(raw={"type": "function", "function": dict(spec)}) for spec in specs)


def walk(
    wire: Wire,
    constraint: Constraint,
    rng: random.Random,
    *,
    specs: Sequence[dict[str, Any]] = TOOLS,
    choice: ToolChoice | None = None,
    parallel: bool = True,
    response_format: ResponseFormat | None = None,
    limit: int = 400,
    hurry: float = 0.4,
) -> list[int] | None:
    """The ids of one answer; None where the limit cut it. ``hurry``: how often a short token or an end is preferred."""
    offered = tools(specs)
    grammar = wire.grammar(offered, choice or ToolChoice(), parallel, response_format or ResponseFormat())
    state = constraint.start(grammar)
    row = np.empty(constraint.vocabulary.words + 3, np.int32)
    ids: list[int] = []
    while len(ids) < limit:
        state.fill(row)
        allowed = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist()
        assert allowed
        token = rng.choice(closing(constraint.vocabulary, allowed) if rng.random() < hurry else allowed)
        assert state.can_end == (wire.end_id in allowed)
        assert state.advance(token)
        ids.append(token)
        if state.terminated:
            return ids
    return None


def closing(vocabulary: Vocabulary, allowed: list[int]) -> list[int]:
    """Of the allowed tokens those that bring the answer nearest to its end."""
    texts = {t: vocabulary.tokens[t] or b"" for t in allowed}
    for ends in (b"", b"}", b"]", b'"', b","):
        found = [t for t, text in texts.items() if text.endswith(ends) and (ends or not text)]
        if found:
            return found
    return allowed


def judge(
    wire: Wire, ids: Sequence[int], specs: Sequence[dict[str, Any]] = TOOLS, content_schema: Any = None
) -> tuple[str, list[tuple[str, Any]]]:
    """Content and calls of a whole turn; fails where it is not legal."""
    parser = wire.parser()
    events = [*parser.feed(ids), *parser.finish()]
    assert isinstance(events[-1], TurnEnd)
    content = "".join(e.text for e in events if isinstance(e, ContentDelta))
    calls: list[list[str]] = []
    for event in events:
        if isinstance(event, CallStart):
            calls.append([event.name, ""])
        elif isinstance(event, ArgumentsDelta):
            calls[-1][1] += event.text
    assert sum(isinstance(e, CallEnd) for e in events) == len(calls)
    assert content or calls
    assert "\ufffd" not in content or "\ufffd".encode() in b"".join(wire.tokenizer.token_bytes(i) or b"" for i in ids)
    schemas = {spec["name"]: spec["parameters"] for spec in specs}
    found = []
    for name, text in calls:
        value = json.loads(text, object_pairs_hook=unique)
        jsonschema.validate(value, schemas[name], cls=jsonschema.Draft202012Validator)
        assert isinstance(value, dict)
        found.append((name, value))
    if content_schema is not None and content:
        jsonschema.validate(
            json.loads(content, object_pairs_hook=unique), content_schema, cls=jsonschema.Draft202012Validator
        )
    return content, found


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({key for key, _ in pairs}) == len(pairs), f"a key twice: {pairs}"
    return dict(pairs)
