"""Whatever is drawn from the masks is legal: random walks, judged by code that knows nothing of them."""

from __future__ import annotations

import random
from functools import cache

import pytest

from octupus.constrain import Constraint, Vocabulary
from octupus.wire import ResponseFormat, ToolChoice, Wire
from tests.support.tiny import tiny_dialect
from tests.unit.constrain.walk import TOOLS, judge, walk

DIALECTS = ["octupus", "qwen2_5"]


@cache
def setting(dialect: str) -> tuple[Wire, Constraint]:
    wire = tiny_dialect(dialect)
    return wire, Constraint(Vocabulary.from_tokenizer(wire.tokenizer))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("mode", ["auto", "required", "none"])
@pytest.mark.parametrize("parallel", [True, False])
def test_walks_are_legal(dialect: str, mode: str, parallel: bool) -> None:
    wire, constraint = setting(dialect)
    ended = 0
    for seed in range(25):
        choice = ToolChoice(mode=mode)  # type: ignore[arg-type]
        ids = walk(wire, constraint, random.Random(seed), choice=choice, parallel=parallel)
        if ids is None:
            continue
        ended += 1
        content, calls = judge(wire, ids)
        assert not (mode == "none" and calls) and not (mode == "required" and (content or not calls))
        assert parallel or len(calls) <= 1
    assert ended >= 15


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_named_function_is_called_once(dialect: str) -> None:
    wire, constraint = setting(dialect)
    for seed in range(10):
        choice = ToolChoice(mode="named", names=("get_weather",))
        ids = walk(wire, constraint, random.Random(seed), choice=choice, hurry=0.6)
        if ids is not None:
            assert [name for name, _ in judge(wire, ids)[1]] == ["get_weather"]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        TOOLS[0]["parameters"] | {"additionalProperties": False},
        {"enum": [1, 10]},
        {"type": "number"},
    ],
)
def test_response_format(dialect: str, schema: dict) -> None:
    wire, constraint = setting(dialect)
    wanted = ResponseFormat(type="json_schema", json_schema=schema)
    ended = 0
    for seed in range(10):
        ids = walk(wire, constraint, random.Random(seed), choice=ToolChoice(mode="none"), response_format=wanted)
        if ids is not None:
            ended += 1
            content, calls = judge(wire, ids, content_schema=schema)
            assert content and not calls
    assert ended >= 5
    for seed in range(10):
        ids = walk(wire, constraint, random.Random(seed), response_format=wanted)
        if ids is not None:
            content, calls = judge(wire, ids, content_schema=schema)
            assert bool(content) != bool(calls)
