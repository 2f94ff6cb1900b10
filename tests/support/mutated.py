"""BFCL's real requests, broken in every way a client, a proxy or an enemy breaks them; seeded."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from eval.sample import BfclData

CATEGORIES = ["simple_python", "live_multiple", "live_irrelevance", "multi_turn_base"]
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 1e308, 0.5, -0.0, "", " ", "x", "\u0000", "\ud83d\ude00",
    "\u202e", "<|FUNCTION_CALL|>", "a" * 3000, [], {}, [None], [[]], {"": None}, {"type": "object"}, {"$ref": "#"},
    {"type": "array", "items": {"$ref": "#"}}, {"anyOf": []}, {"enum": []}, {"pattern": "(a|a)*$", "type": "string"},
    {"allOf": [{"type": "string"}, {"type": "integer"}]}, {"minLength": 10**9, "type": "string"}, {"not": {}},
    {"type": ["string", "null", "frog"]}, {"const": {"deep": [1, {"x": None}]}}, {"patternProperties": {"(": {}}},
]  # fmt: skip
SETTINGS: list[tuple[str, list[Any]]] = [
    ("tool_choice", ["auto", "none", "required", {"type": "function", "function": {"name": "f"}}, "frog", {}]),
    ("parallel_tool_calls", [True, False]),
    ("stream", [True, False]),
    ("stream_options", [{"include_usage": True}]),
    ("temperature", [0, 1, 2.5]),
    ("n", [1, 2]),
    ("stop", ["a", ["}", "\n"], []]),
    ("seed", [1]),
    ("logprobs", [True]),
    ("top_logprobs", [0, 3]),
    (
        "response_format",
        [{"type": "json_object"}, {"type": "json_schema", "json_schema": {"schema": {}}}],
    ),
    ("max_completion_tokens", [1, 20]),
    ("previous_response_id", ["x"]),
    ("unknown_field", [{"x": 1}]),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything inside."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield from places(child, (*path, key))


def broken(value: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """One place changed, removed, doubled or swapped with another."""
    path = rng.choice(list(places(value)))
    parent: Any = value
    for key in path[:-1]:
        parent = parent[key]
    last = path[-1]
    match rng.randrange(4):
        case 0:
            parent[last] = copy.deepcopy(rng.choice(ODD))
        case 1:
            del parent[last]
        case 2 if isinstance(parent, list):
            parent.append(copy.deepcopy(parent[last]))
        case 2:
            parent[rng.choice(["type", "properties", "required", "items", "enum", "name", "x\ny"])] = copy.deepcopy(
                parent[last]
            )
        case _:
            parent[last] = {"oneOf": [parent[last], copy.deepcopy(rng.choice(ODD))]}
    return value


def bodies(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """(path, body): chat completions and responses, a tenth of them whole, some not even JSON."""
    rng = random.Random(seed)
    questions = list(BfclData.ready().questions(CATEGORIES))
    for _ in range(count):
        question = rng.choice(questions)
        responses = rng.random() < 0.25
        tools = [{"type": "function", **tool["function"]} if responses else tool for tool in question.tools]
        body: dict[str, Any] = {"input" if responses else "messages": question.turns[0], "model": "x", "tools": tools}
        body = copy.deepcopy(body | {"max_output_tokens" if responses else "max_tokens": 24})
        for name, values in rng.sample(SETTINGS, rng.randint(0, 3)):
            body[name] = copy.deepcopy(rng.choice(values))
        for _ in range(rng.choice([0, 1, 1, 1, 2, 2, 3, 5, 8, 1])):
            body = broken(body, rng) if body else body
        data = json.dumps(body).encode()
        if rng.random() < 0.05:
            at = rng.randrange(len(data))
            data = data[:at] + rng.choice([b"", b"\xff", b"{", b"\\ud800", b"NaN", b"[" * 5000]) + data[at + 1 :]
        yield ("/responses" if responses else "/v1/chat/completions"), data
