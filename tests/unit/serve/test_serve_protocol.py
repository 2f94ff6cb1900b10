"""The request's border: what is accepted, what is refused, and which field the refusal names."""

from __future__ import annotations

import json
from typing import Any

import pytest

from octupus.serve.errors import ApiError
from octupus.serve.protocol import Task, read_json, read_task

HELLO = [{"role": "user", "content": "Hello"}]


def tool(name: str = "f", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


def task(**fields: Any) -> Task:
    return read_task(read_json(json.dumps({"messages": HELLO, **fields}).encode()))


def refused(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        task(**fields)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
        ),
        (
            {"messages": [*HELLO, {"role": "assistant", "tool_calls": [{"id": "a", "function": {}}]}]},
            "messages[1].tool_calls[0].function.name",
        ),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"n": 100}, "n"),
        ({"seed": 2**64}, "seed"),
        ({"stop": [1]}, "stop[0]"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x.[key]"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [tool(""), tool()]}, "tools[0].function.name"),
        ({"tools": [tool(), tool()]}, "tools[1].function.name"),
        ({"tools": [tool(parameters=[])]}, "tools[0].function.parameters"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": tool("g")}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": {"type": "function"}}, "tool_choice"),
        (
            {"tools": [tool()], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}},
            "tool_choice",
        ),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"store": True}, "store"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
    ],
)
def test_a_refusal_names_the_field(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields).param == param


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"nonsense",
        b'{"messages": NaN}',
        b'{"messages": "\xff"}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "x"}], "\\udfff": 1}',
        b'{"x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"x": ' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"seed": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda body: repr(body[:40]),
)
def test_what_is_no_usable_json_is_a_400(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        read_json(body)
    assert caught.value.status == 400
    caught.value.message.encode()


def test_a_whole_surrogate_pair_is_welcome() -> None:
    assert task(messages=[{"role": "user", "content": "\U0001f600"}]).messages[0].content == "😀"


def test_no_op_values_and_nulls_are_accepted_and_unknown_fields_are_named() -> None:
    found = task(
        store=False, user="me", metadata={"a": "b"}, service_tier="auto", modalities=["text"], audio=None, n=None,
        tools=None, tool_choice=None, stream=None, stop=None, response_format=None, enable_thinking=False, top_n=1,
    )  # fmt: skip
    assert found.ignored == ("enable_thinking", "top_n")
    assert (found.n, found.stops, found.choice.mode) == (1, (), "none")


@pytest.mark.parametrize(
    ("value", "mode", "names"),
    [
        (None, "auto", None),
        ("auto", "auto", None),
        ("none", "none", None),
        ("required", "required", None),
        (tool("g"), "named", ("g",)),
        ({"type": "function", "name": "g"}, "named", ("g",)),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [tool("g")]}}, "required", ("g",)),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}, "auto", ("f",)),
    ],
)
def test_tool_choice_in_all_its_forms(value: Any, mode: str, names: tuple[str, ...] | None) -> None:
    choice = task(tools=[tool("f"), tool("g")], tool_choice=value).choice
    assert (choice.mode, choice.names) == (mode, names)


def test_messages_become_ours() -> None:
    calls = [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}, "incomplete": True},
        {"id": "b", "function": {"name": "f", "arguments": {"y": 2}}},
        {"id": "c", "function": {"name": "f", "arguments": '{"cut'}},
        {"id": "d", "function": {"name": "f", "arguments": '{"s": "\\ud800"}'}},
        {"id": "e", "function": {"name": "f", "arguments": "[" * 100_000}},
    ]
    found = task(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "name": "joe", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": calls, "refusal": None, "reasoning_content": "x"},
            {"role": "tool", "tool_call_id": "a", "content": "1"},
        ]
    ).messages
    assert [m.role for m in found] == ["system", "user", "assistant", "tool"]
    assert found[1].content == "a\nb"
    assert [c.arguments for c in found[2].tool_calls[:3]] == [{"x": 1}, {"y": 2}, '{"cut']
    assert all(isinstance(c.arguments, str) for c in found[2].tool_calls[3:])
    assert found[3].tool_call_id == "a"


def test_seeded_choices_differ_and_limits_take_the_newer_field() -> None:
    found = task(n=2, seed=2**63 - 1, max_tokens=5, max_completion_tokens=7)
    assert found.max_tokens == 7
    assert found.sampling(7, 0).seed != found.sampling(7, 1).seed
    assert -(2**63) <= (found.sampling(7, 1).seed or 0) < 2**63
