"""Checks, schema repair, mixing and decontamination, each on rows made for it."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from data_recipes.check import check
from data_recipes.sources import demo_tools
from data_recipes.sources.openai_format import to_conversation
from eval.sample import BfclData
from octupus.data.decontaminate import Benchmark
from octupus.data.mix import Ingredient, mix
from octupus.data.mix import parts as unpacked
from octupus.data.schemas import repaired
from octupus.errors import DataError
from octupus.wire.messages import Conversation
from tests.support.recipes import WEATHER, call, chat, write_jsonl


def turns(*messages: Mapping[str, Any], tools: list[Any] | None = None) -> Conversation:
    return to_conversation({"messages": list(messages), "tools": [WEATHER] if tools is None else tools})


def says(role: str, content: str = "x", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def calls(*cities: str) -> dict[str, Any]:
    made = [
        {"id": f"c{i}", "function": {"name": "get_weather", "arguments": json.dumps({"city": c})}}
        for i, c in enumerate(cities)
    ]
    return {"role": "assistant", "content": None, "tool_calls": made}


def result(number: int) -> dict[str, Any]:
    return says("tool", "sunny", tool_call_id=f"c{number}")


GOOD = [
    turns(says("system", "be kind"), says("user"), says("assistant")),
    turns(says("user"), calls("Paris", "Rome"), result(1), result(0), says("assistant"), says("user"), calls("Oslo")),
    turns(says("user"), calls("北京")),
    turns(says("user"), calls("Paris"), result(0), calls("Rome"), says("tool", "ok"), says("assistant")),
]


@pytest.mark.parametrize("conversation", GOOD)
def test_good_conversations_pass(conversation: Conversation) -> None:
    check(conversation)
    assert conversation.supervised


@pytest.mark.parametrize(
    ("conversation", "reason"),
    [
        (turns(says("assistant"), says("user")), "turn order: assistant after system"),
        (turns(says("user"), says("user"), says("assistant")), "turn order: user after user"),
        (turns(says("user"), says("assistant"), says("user")), "turn order: ends with user"),
        (turns(says("user"), says("assistant"), says("system"), says("user")), "turn order: system after assistant"),
        (turns(says("user"), calls("Paris"), says("user")), "turn order: user after calls"),
        (turns(says("user"), calls("Paris"), result(0)), "turn order: ends with tool"),
        (turns(says("user"), result(0), says("assistant")), "turn order: tool after user"),
        (turns(says("user", "  "), says("assistant")), "empty user turn"),
        (turns(says("user"), says("assistant", " \n")), "empty assistant turn"),
        (turns(says("user"), calls("Paris"), tools=[]), "calls a tool that was not offered: get_weather"),
        (turns(says("user"), calls("A", "B"), result(0), says("assistant")), "tool results do not answer .*1 for 2"),
        (turns(says("user"), calls("A"), result(5), says("assistant")), "tool results do not answer .*ids differ"),
        (to_conversation(call("x", '{"city": 3}')), r"arguments break the schema: get_weather/city: 3 is not of type"),
        (to_conversation(call("x", "{}")), "arguments break the schema: .*required"),
        (to_conversation(call("x", '{"city": "A", "z": 1}')), "arguments that the tool does not declare: get_weather"),
        (to_conversation(call("x", "[1]")), r"arguments are no JSON object: \[1\]"),
        (to_conversation(call("x", '{"city": ')), "arguments are no JSON object"),
        (to_conversation(call("x", '{"city": "\\ud800"}')), "not well-formed text or JSON: .*surrogates"),
        (turns(says("user"), says("assistant"), tools=[WEATHER, WEATHER]), "two tools of one name"),
    ],
)
def test_bad_conversations_are_refused_with_a_reason(conversation: Conversation, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        check(conversation)


def test_arguments_nested_too_deep_are_a_reject_and_no_traceback() -> None:
    anything = {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}
    made = {"function": {"name": "f", "arguments": f'{{"a": {"[" * 700}{"]" * 700}}}'}}
    conversation = turns(says("user"), {"role": "assistant", "tool_calls": [made]}, tools=[anything])
    with pytest.raises(DataError, match=r"not well-formed text or JSON: maximum recursion depth"):
        check(conversation)


def test_openai_rows_in_all_their_forms() -> None:
    old = {
        "conversation": json.dumps(
            [
                says("developer", "s"),
                says("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
                {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"n": 1}'}},
                {"role": "function", "name": "f", "content": {"ok": True}},
                says("assistant", "done"),
            ]
        ),
        "tools": json.dumps([{"name": "f", "parameters": {"type": "dict", "properties": {"n": {"type": "int"}}}}]),
    }
    conversation = to_conversation(old)
    check(conversation)
    assert [m.role for m in conversation.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert [m.content for m in conversation.messages] == ["s", "ab", "", '{"ok": true}', "done"]
    assert conversation.messages[2].tool_calls[0].arguments == {"n": 1}
    assert conversation.tools[0].raw["function"]["parameters"] == {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
    }
    with pytest.raises(DataError, match="messages is not JSON"):
        to_conversation({"messages": "[{"})
    with pytest.raises(DataError, match="no messages"):
        to_conversation({"messages": []})


def test_what_parquet_fills_with_nulls_is_taken_out_again() -> None:
    properties = {"city": {"type": "str"}, "of_another_row": None}
    arguments = {"city": "Paris", "days": None, "more": {"a": None, "b": [{"c": None, "d": 1}]}}
    conversation = to_conversation(
        {
            "messages": [
                says("user", function_call={"name": None, "arguments": None}),
                {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": arguments}}]},
            ],
            "tools": [{"name": "f", "parameters": {"type": "dict", "properties": properties}}],
        }
    )
    (made,) = conversation.messages[1].tool_calls
    assert made.arguments == {"city": "Paris", "more": {"b": [{"d": 1}]}} and not conversation.messages[0].tool_calls
    assert conversation.tools[0].parameters == {"type": "object", "properties": {"city": {"type": "string"}}}
    assert to_conversation({**chat("a", "b"), "tools": "null"}).tools == ()


def test_schemas_are_repaired_at_every_depth() -> None:
    published = {
        "type": "dict",
        "properties": {
            "a": {"type": "float", "required": True},
            "b": {"type": "List[str]", "items": {"type": "str"}, "enum": [None]},
            "c": {"type": "any", "description": "whatever"},
            "d": {"type": ["int", None], "anyOf": [{"type": "tuple"}]},
        },
        "required": ["b", "gone"],
    }
    assert repaired(published) == {
        "type": "object",
        "properties": {
            "a": {"type": "number"},
            "b": {"type": "array", "items": {"type": "string"}},
            "c": {"description": "whatever"},
            "d": {"type": ["integer", "null"], "anyOf": [{"type": "array"}]},
        },
        "required": ["b", "a"],
    }
    assert list(repaired(published)) == ["type", "properties", "required"], "the published order stays"
    spread = {
        "$defs": {"p": {"type": "dict"}},
        "prefixItems": [{"type": "int"}],
        "patternProperties": {"^x": {"type": "str"}},
    }
    assert repaired(spread) == {
        "$defs": {"p": {"type": "object"}},
        "prefixItems": [{"type": "integer"}],
        "patternProperties": {"^x": {"type": "string"}},
    }
    with pytest.raises(DataError, match=r"cannot be repaired: /properties/x/items/type: 'Color'"):
        repaired({"type": "object", "properties": {"x": {"type": "list", "items": {"type": "Color"}}}})


def digests(*values: int) -> NDArray[np.uint64]:
    return np.array(values, np.uint64)


def test_mixing_takes_each_source_as_often_as_said() -> None:
    many = digests(*range(1000))
    parts = [
        Ingredient("a", 2, digests(1, 2, 3), digests(1, 2, 3)),
        Ingredient("b", 0.25, many + np.uint64(100), many + np.uint64(100)),
        Ingredient("c", 1.5, digests(3, 9, 8, 7), digests(3, 9, 8, 7)),
    ]
    mixture = mix(parts, digests(9), seed=1)
    taken = np.concatenate(mixture.passes)
    sources, _, rows = unpacked(taken)
    count = {source: int((sources == source).sum()) for source in range(3)}
    assert count == {0: 6, 1: 250, 2: 3}, "c: 3 is a's, 9 is held out, 8 and 7 are left: 2 + 1"
    assert mixture.duplicates == (0, 0, 1) and mixture.held_out == (0, 0, 1)
    for keys in mixture.passes:
        assert len(np.unique(keys)) == len(keys), "a pass holds no row twice"
    alone = mix([parts[1]], digests(), seed=1)
    assert (alone.passes[0] == rows[sources == 1]).all(), "other sources do not change a sample"
    assert (mix([parts[1]], digests(), seed=2).passes[0] != alone.passes[0]).any()
    varied = mix(parts, digests(9), seed=1, variants=True)
    assert [set(unpacked(keys)[1].tolist()) for keys in varied.passes] == [{0}, {1}], "each pass is a variant"
    left_out = np.array([True, False, False])
    assert len(mix([replace(parts[0], left_out=left_out)], digests(), 0).unique()) == 2


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    folder = tmp_path_factory.mktemp("bfcl")
    asked = [
        "Find the area of a triangle with a base of 10 units and height of 5 units.",
        "请问北京的当前天气状况如何？还有，上海的天气情况是怎样的？",
        "Book it.",
    ]
    write_jsonl(folder / "questions.jsonl", [{"turns": [[{"role": "user", "content": text}]]} for text in asked])
    properties = {"base": {"type": "integer"}, "height": {"type": "integer"}, "unit": {"type": "string"}}
    tools = [("geometry.Area", properties), ("ping", {"host": {"type": "string"}})]
    write_jsonl(folder / "tools.jsonl", [{"tool": tool(name, properties)} for name, properties in tools])
    return Benchmark(folder)


def tool(name: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        ("find THE area of a triangle, with a base of 10 units -- and height of 5 units", True),
        ("Please: find the area of a triangle with a base of 12 units and height of 7 units. Thanks!", True),
        ("Find the area of a circle.", False),
        ("你好，请问北京的当前天气状况如何？还有，广州的天气情况是怎样的？", True),
        ("请问上海有什么好吃的？", False),
        ("book it!", True),
        ("Book it for me.", False),
    ],
)
def test_planted_questions_are_found(benchmark: Benchmark, text: str, hit: bool) -> None:
    assert (benchmark.hit(to_conversation(chat(text, "ok"))) is not None) == hit


def test_tools_are_found_by_signature(benchmark: Benchmark) -> None:
    area = {"base": {"type": "integer"}, "height": {"type": "integer"}, "unit": {"type": "string"}}
    for name, properties, hit in (
        ("geometry_area", area, True),
        ("another_name", area, True),  # three parameters tell enough
        ("Ping", {"host": {"type": "string"}}, True),
        ("pong", {"host": {"type": "string"}}, False),  # one does not
        ("ping", {"address": {"type": "string"}}, False),
    ):
        conversation = to_conversation({**chat("hello", "ok"), "tools": [tool(name, properties)]})
        assert (benchmark.hit(conversation) is not None) == hit, name
    assert benchmark.same_name(conversation)


@pytest.fixture(scope="module")
def bfcl() -> tuple[Benchmark, list[str]]:
    """The real one, and its questions of at least ten words."""
    found = Benchmark(BfclData.ready().folder)
    lines = Path(found.folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line)["turns"][0][-1]["content"] for line in lines]
    return found, [text for text in asked if len(text.split()) >= 10 and text.isascii()]


def planted(text: str, rng: random.Random) -> dict[str, str]:
    words = text.split()
    few = list(words)
    for place in rng.sample(range(len(words)), len(words) // 10):
        few[place] = "".join(rng.choice("abcdefghij") for _ in range(7))
    return {
        "verbatim": text,
        "re-cased": text.swapcase(),
        "inside": f"Please help me. {text} Thanks!",
        "few": " ".join(few),
    }


def test_planted_questions_of_the_real_benchmark_are_caught(bfcl: tuple[Benchmark, list[str]]) -> None:
    """The bar: at least 48 of 50, in each form; reported as the weakest form."""
    found, asked = bfcl
    rng, caught = random.Random(7), Counter[str]()
    for text in rng.sample(asked, 50):
        for form, said in planted(text, rng).items():
            caught[form] += found.hit(to_conversation(chat(said, "ok"))) is not None
    assert len(caught) == 4 and min(caught.values()) >= 48, caught


def test_planted_tools_of_the_real_benchmark_are_caught_in_any_order(bfcl: tuple[Benchmark, list[str]]) -> None:
    rng = random.Random(8)
    lines = Path(bfcl[0].folder / "tools.jsonl").read_text(encoding="utf-8").splitlines()
    tools = [json.loads(line)["tool"] for line in rng.sample(lines, 50)]
    caught = 0
    for raw in tools:
        offered = [WEATHER, raw, tool("nothing_known_here", {"zebra": {"type": "string"}})]
        rng.shuffle(offered)
        caught += bfcl[0].hit(to_conversation({**chat("an unrelated question", "ok"), "tools": offered})) is not None
    assert caught == 50


def test_unrelated_rows_are_left_alone(bfcl: tuple[Benchmark, list[str]]) -> None:
    """The bar: at most 2 of 2,000; rows are the demo's tool conversations, in words and Chinese."""
    rows = demo_tools.rows(None, "train", 2000, 11)
    hits = [hit for row in rows if (hit := bfcl[0].hit(demo_tools.to_conversation(row))) is not None]
    assert len(hits) <= 2, hits
