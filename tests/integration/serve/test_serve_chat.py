"""The official client over a real socket: the scripted engine under the real constraint."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from jsonschema import Draft202012Validator

from octupus.wire import Message, ToolCall
from tests.support.served import Served, served
from tests.support.tiny import tiny_wire

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer"},
    },
    "required": ["city"],
}
NESTED = {
    "type": "object",
    "properties": {
        "who": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}}, "required": ["name"]},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "中"]}, "maxItems": 3},
    },
    "required": ["who", "tags"],
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "get_weather_now", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "查询", "parameters": NESTED}},
    {"type": "function", "function": {"name": "ping"}},
]
SCHEMAS = {t["function"]["name"]: t["function"].get("parameters", {"type": "object"}) for t in TOOLS}
NAMED = {"type": "function", "function": {"name": "查询"}}
ALLOWED = {
    "type": "allowed_tools",
    "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "ping"}}]},
}


def as_told(prompt_ids: list[int]) -> list[int]:
    """A script: the last user message may hold the answer, ``{"content": ..., "calls": [[name, arguments]]}``."""
    wire = tiny_wire()
    said = [m.content for m in wire.parse(prompt_ids).messages if m.role == "user"]
    try:
        told = json.loads(said[-1] if said else "")
        calls = tuple(ToolCall(name=name, arguments=arguments) for name, arguments in told.get("calls", ()))
    except (ValueError, AttributeError):
        return []
    answer = Message(role="assistant", content=told.get("content", ""), tool_calls=calls)
    ids = wire.render_prompt([Message(role="user", content="x"), answer], ())
    start = wire.render_prompt([Message(role="user", content="x")], ())
    return ids[len(start) : -1]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(script=as_told, max_model_len=4096, default_max_tokens=400) as up:
        yield up


def ask(server: Served, text: Any = "Hello", **fields: Any) -> Any:
    said = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
    messages = fields.pop("messages", [{"role": "user", "content": said}])
    return server.client.chat.completions.create(model="gpt-4o", messages=messages, **fields)


def gathered(server: Served, text: Any = "Hello", **fields: Any) -> dict[str, Any]:
    """The streamed answer, put together as the client's own helper does it."""
    said = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
    with server.client.chat.completions.stream(
        model="gpt-4o", messages=[{"role": "user", "content": said}], **fields
    ) as stream:
        for _ in stream:
            pass
        try:
            final = stream.get_final_completion()
        except openai.LengthFinishReasonError as error:
            final = error.completion
    return shape(final)


def shape(completion: Any) -> dict[str, Any]:
    choice = completion.choices[0]
    calls = [(c.function.name, c.function.arguments) for c in choice.message.tool_calls or ()]
    return {"content": choice.message.content, "calls": calls, "finish": choice.finish_reason}


def check_calls(calls: list[tuple[str, str]], names: set[str]) -> None:
    for name, arguments in calls:
        assert name in names
        value = json.loads(arguments)
        Draft202012Validator(SCHEMAS[name]).validate(value)


CHOICES: list[Any] = ["auto", "none", "required", NAMED, ALLOWED]


@pytest.mark.parametrize(
    ("choice", "parallel", "seed"),
    list(itertools.product(CHOICES, [True, False], [1, 2, 3])),
    ids=lambda value: value if isinstance(value, str) else value["type"] if isinstance(value, dict) else str(value),
)
def test_streamed_equals_whole_and_every_call_is_legal(server: Served, choice: Any, parallel: bool, seed: int) -> None:
    fields = {"tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": parallel, "seed": seed}
    whole = shape(ask(server, **fields))
    assert gathered(server, **fields) == whole
    names = {"查询"} if choice is NAMED else {"ping"} if choice is ALLOWED else set(SCHEMAS)
    if whole["finish"] != "length":
        check_calls(whole["calls"], names)
        assert whole["finish"] == ("tool_calls" if whole["calls"] and choice is not NAMED else "stop")
    if not parallel or choice is NAMED:
        assert len(whole["calls"]) <= 1
    if choice == "none":
        assert not whole["calls"] and whole["content"] is not None
    elif choice != "auto" and whole["finish"] != "length":
        assert whole["calls"] and whole["content"] is None


def test_the_calls_that_the_model_wants_are_the_calls_that_arrive(server: Served) -> None:
    calls = [["get_weather", {"city": "Zürich", "days": 3}], ["查询", {"who": {"name": "李"}, "tags": ["中"]}]]
    answer = ask(server, {"content": "One moment", "calls": calls}, tools=TOOLS)
    message = answer.choices[0].message
    assert message.content == "One moment"
    assert [[c.function.name, json.loads(c.function.arguments)] for c in message.tool_calls] == calls
    assert "Zürich" in message.tool_calls[0].function.arguments
    assert len({c.id for c in message.tool_calls}) == 2
    assert answer.choices[0].finish_reason == "tool_calls" and answer.model == "tiny"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_what_the_model_wants_illegally_does_not_arrive(server: Served) -> None:
    calls = [["get_weather", {"town": 5}], ["rm", {"-rf": "/"}]]
    asked = [shape(ask(server, {"calls": calls}, tools=TOOLS, seed=s, tool_choice="required")) for s in range(10)]
    whole = [answer for answer in asked if answer["finish"] != "length"]
    assert whole, "all were cut, so nothing was looked at"
    for answer in whole:
        check_calls(answer["calls"], set(SCHEMAS))


def test_a_tool_loop_with_replayed_and_echoed_messages(server: Served) -> None:
    first = ask(server, {"calls": [["get_weather", {"city": "Rome"}], ["ping", {}]]}, tools=TOOLS)
    message = first.choices[0].message
    echo = {
        **message.model_dump(),
        "reasoning_content": "x",
        "my_own": {"deep": [1]},
    }  # as BFCL's harness sends it back
    results = [
        {"role": "tool", "tool_call_id": message.tool_calls[1].id, "content": "pong"},
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"},
    ]
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": '{"content": "It is sunny"}'},
        echo,
        *results,
    ]
    answer = ask(server, messages=messages, tools=TOOLS)
    assert answer.choices[0].message.content == "It is sunny"
    assert answer.choices[0].message.tool_calls is None


def test_replayed_truncated_calls_and_empty_turns_are_taken(server: Served) -> None:
    cut = {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Ro'}}
    for turn in ({"content": None, "tool_calls": [{**cut, "incomplete": True}]}, {"content": None}, {"content": ""}):
        messages = [
            {"role": "user", "content": "x"},
            {"role": "assistant", **turn},
            {"role": "user", "content": "go on"},
        ]
        assert ask(server, messages=messages, tools=TOOLS, max_tokens=5).choices


@pytest.mark.parametrize("limit", [1, 2, 5, 9])
def test_a_cut_answer_says_so(server: Served, limit: int) -> None:
    told = {"calls": [["get_weather", {"city": "Constantine"}]]}
    whole = ask(server, told, tools=TOOLS, max_tokens=limit)
    assert whole.choices[0].finish_reason == "length" and whole.usage.completion_tokens == limit
    for call in whole.choices[0].message.tool_calls or ():
        assert call.model_extra == {"incomplete": True}
    assert gathered(server, told, tools=TOOLS, max_tokens=limit) == shape(whole)


def test_usage_comes_last_in_a_stream_when_it_is_asked_for(server: Served) -> None:
    told = {"content": "Hello world"}
    fields = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(ask(server, told, **fields))
    whole = ask(server, told)
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1
    plain = list(ask(server, told, stream=True))
    assert all(chunk.choices for chunk in plain)
    assert plain[0].choices[0].delta.role == "assistant" and plain[-1].choices[0].finish_reason == "stop"


def test_several_choices_stops_and_log_probabilities(server: Served) -> None:
    answer = ask(server, {"content": "one two three"}, n=3, stop=[" three"], logprobs=True, top_logprobs=1)
    assert [c.message.content for c in answer.choices] == ["one two"] * 3
    assert [c.index for c in answer.choices] == [0, 1, 2]
    assert all(c.logprobs and c.logprobs.content for c in answer.choices)
    seeded = ask(server, n=2, seed=7, tools=TOOLS, tool_choice="required")
    again = ask(server, n=2, seed=7, tools=TOOLS, tool_choice="required")
    texts = [[c.message.tool_calls[0].function.arguments for c in a.choices] for a in (seeded, again)]
    assert texts[0] == texts[1]


def test_response_formats_are_obeyed(server: Served) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    for seed in range(5):
        answer = ask(server, response_format=wanted, seed=seed)
        if answer.choices[0].finish_reason == "stop":
            Draft202012Validator(schema).validate(json.loads(answer.choices[0].message.content))
    told = ask(server, {"content": '{"a": [1, 2]}'}, response_format={"type": "json_object"})
    assert json.loads(told.choices[0].message.content) == {"a": [1, 2]}
    called = ask(server, {"calls": [["ping", {}]]}, response_format=wanted, tools=TOOLS)
    assert called.choices[0].message.tool_calls


def test_refusals_have_openais_shape(server: Served) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(server, tools=TOOLS, tool_choice={"type": "function", "function": {"name": "nope"}})
    assert caught.value.param == "tool_choice" and "nope" in caught.value.message
    with pytest.raises(openai.BadRequestError) as caught:
        ask(server, "long " * 5000)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        ask(server, max_tokens=5000)
    assert caught.value.param == "max_tokens"
    bad = {"type": "object", "properties": {"x": {"type": "string", "pattern": "(?=a)b"}}}
    with pytest.raises(openai.BadRequestError) as caught:
        ask(server, tools=[{"type": "function", "function": {"name": "f", "parameters": bad}}])
    assert caught.value.param == "tools[0].function.parameters" and "(?=a)b" in caught.value.message
    with pytest.raises(openai.NotFoundError):
        server.client.embeddings.create(model="x", input="y")


def test_raw_http_without_the_client(server: Served) -> None:
    body = {"messages": [{"role": "user", "content": '{"content": "Hi"}'}], "temprature": 1, "a\r\nb": 2}
    for path in ("/chat/completions", "/v1/chat/completions"):
        reply = httpx.post(server.url + path, json=body, headers={"X-Request-Id": "mine"})
        assert reply.status_code == 200 and reply.json()["choices"][0]["message"]["content"] == "Hi"
        assert reply.headers["X-Octupus-Ignored"] == "temprature, a%0D%0Ab"
        assert reply.headers["X-Request-Id"] == "mine"
    assert httpx.post(server.url + "/v1/chat/completions", content=b"{").status_code == 400
    assert httpx.get(server.url + "/v1/chat/completions").status_code == 405
    assert httpx.get(server.url + "/nope").json()["error"]["code"] == "not_found"
    assert httpx.get(server.url + "/models").json()["data"][0]["id"] == "tiny"
    assert httpx.get(server.url + "/v1/models/any/name").json()["id"] == "tiny"
    assert httpx.get(server.url + "/ready").status_code == httpx.get(server.url + "/health").status_code == 200


def test_what_clients_send_out_of_habit_is_taken(server: Served) -> None:
    harmless: list[dict[str, Any]] = [
        {"store": False, "user": "me", "metadata": {"a": "b"}, "service_tier": "auto", "modalities": ["text"]},
        {"tools": [], "tool_choice": "auto"},
        {"tools": None, "tool_choice": None, "parallel_tool_calls": None, "stop": None, "n": None, "logit_bias": None},
        {"functions": [], "function_call": "none", "reasoning_effort": "low", "stop": ""},
        {"top_p": 0, "temperature": 0, "top_k": -1, "min_p": 0},
        {"messages": [{"role": "system", "content": "only rules"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
        {"messages": [{"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": "of nobody", "content": "y"}]},
        {"messages": [{"role": "user", "name": "Bob", "content": "x"}, {"role": "assistant", "content": "and"}]},
    ]
    for fields in harmless:
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3, **fields}
        reply = httpx.post(server.url + "/v1/chat/completions", json=body)
        assert reply.status_code == 200 and reply.json()["usage"]["completion_tokens"] <= 3, (fields, reply.text)


def test_what_we_would_not_do_is_refused_by_field(server: Served) -> None:
    image = {"type": "image_url", "image_url": {"url": "x"}}
    schema = {"type": "object", "properties": {"x": {"type": "array", "uniqueItems": True}}}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"store": True}, "store"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"n": 17}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [image]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools[1].function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {**ALLOWED, "allowed_tools": {"mode": "auto", "tools": []}}}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}]},
            "tools[0]",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}},
            "response_format.json_schema",
        ),
    ]
    for fields, param in cases:
        body = json.dumps({"messages": [{"role": "user", "content": "x"}], **fields})
        reply = httpx.post(server.url + "/v1/chat/completions", content=body.encode())
        error = reply.json()["error"]
        assert reply.status_code == 400 and (error["param"] or "").startswith(param), (fields, reply.text)
        assert error["type"] == "invalid_request_error" and error["code"] and error["message"]
        if param.startswith(("tools[0]", "response_format.json")) and "uniqueItems" in body:
            assert "/properties/x" in error["message"] and "'uniqueItems'" in error["message"]


def test_where_gaps_are_allowed_a_strict_schema_still_has_none() -> None:
    schema = {"type": "object", "properties": {"x": {"enum": [1, 2]}, "y": {"uniqueItems": True}}, "required": ["x"]}
    function = {"name": "f", "parameters": schema}
    with served(constraint={"on_unenforced": "validate"}) as server:
        lenient = ask(server, tools=[{"type": "function", "function": function}], tool_choice="required", max_tokens=99)
        assert lenient.choices[0].message.tool_calls
        with pytest.raises(openai.BadRequestError, match="'uniqueItems' at /properties/y"):
            ask(server, tools=[{"type": "function", "function": {**function, "strict": True}}])
        with pytest.raises(openai.BadRequestError, match="'uniqueItems' at /properties/y"):
            ask(server, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})


def test_schemas_that_refer_to_each_other_without_end_are_refused(server: Served) -> None:
    links = {f"d{i}": {"oneOf": [{"$ref": f"#/$defs/d{(i + k) % 40}"} for k in (1, 2, 3)]} for i in range(40)}
    schema = {"type": "object", "$defs": links, "properties": {"x": {"$ref": "#/$defs/d0"}}, "required": ["x"]}
    with pytest.raises(openai.BadRequestError):
        ask(server, tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}])
    with pytest.raises(openai.BadRequestError):
        ask(server, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})


def test_the_description_knows_every_field(server: Served) -> None:
    told = httpx.get(server.url + "/openapi.json").json()
    fields = told["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"messages", "tools", "tool_choice", "stream", "seed", "n"} <= fields.keys()
    assert {"type": "string"} in told["components"]["schemas"]["MessageParam"]["properties"]["content"]["anyOf"]
    assert {"/v1/chat/completions", "/v1/responses", "/ready"} <= told["paths"].keys()
