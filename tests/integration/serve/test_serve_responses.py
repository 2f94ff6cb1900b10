"""The Responses API through the official client, as the stock BFCL harness uses it; the same answers as chat gives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.integration.serve.test_serve_chat import NESTED, TOOLS, WEATHER, as_told
from tests.support.served import Served, served

FLAT: list[Any] = [{"type": "function", **tool["function"]} for tool in TOOLS]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(script=as_told, max_model_len=4096, default_max_tokens=400) as up:
        yield up


def ask(server: Served, given: Any, **fields: Any) -> Any:
    given = json.dumps(given, ensure_ascii=False) if isinstance(given, dict) else given
    return server.client.responses.create(model="gpt-4o-2024-11-20", input=given, store=False, **fields)


def calls_of(response: Any) -> list[tuple[str, Any]]:
    return [(item.name, json.loads(item.arguments)) for item in response.output if item.type == "function_call"]


TOLD = {
    "content": "Wait",
    "calls": [["get_weather", {"city": "Köln"}], ["查询", {"who": {"name": "李"}, "tags": ["a"]}]],
}


def test_text_and_calls_arrive_whole_and_streamed(server: Served) -> None:
    whole = ask(server, TOLD, tools=FLAT, temperature=0.001)
    assert whole.output_text == "Wait" and calls_of(whole) == [(n, a) for n, a in TOLD["calls"]]
    assert whole.status == "completed" and whole.model == "tiny"
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
    with server.client.responses.stream(model="x", input=json.dumps(TOLD, ensure_ascii=False), tools=FLAT) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [e.sequence_number for e in events if hasattr(e, "sequence_number")] == sorted(
        e.sequence_number for e in events if hasattr(e, "sequence_number")
    )
    assert final.output_text == whole.output_text and calls_of(final) == calls_of(whole)
    assert final.usage == whole.usage
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == "Wait" and events[0].type == "response.created" and events[-1].type == "response.completed"


def test_the_prompt_is_the_one_that_chat_makes(server: Served) -> None:
    chat = server.client.chat.completions.create(
        model="x",
        messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        tools=TOOLS,
        seed=3,
    )
    said = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    response = ask(server, said, tools=FLAT, extra_body={"seed": 3})
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.output_text == (chat.choices[0].message.content or "")
    again = ask(server, "hi", instructions="Be brief.", tools=FLAT, extra_body={"seed": 3})
    assert again.usage.input_tokens == response.usage.input_tokens


def test_a_loop_in_which_the_outputs_are_sent_back_as_they_came(server: Served) -> None:
    given: list[Any] = [{"role": "user", "content": json.dumps(TOLD, ensure_ascii=False)}]
    first = ask(server, given, tools=FLAT, include=["reasoning.encrypted_content"])
    given += first.output
    for item in first.output:
        if item.type == "function_call":
            given.append({"type": "function_call_output", "call_id": item.call_id, "output": "42"})
    given.append({"role": "user", "content": '{"content": "Done"}'})
    assert ask(server, given, tools=FLAT).output_text == "Done"


def test_cut_answers_choices_and_formats(server: Served) -> None:
    cut = ask(server, TOLD, tools=FLAT, max_output_tokens=16)
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens"
    assert cut.output[-1].status == "incomplete"
    named = ask(server, "x", tools=FLAT, tool_choice={"type": "function", "name": "ping"})
    assert calls_of(named) == [("ping", {})]
    shape = {"format": {"type": "json_schema", "name": "x", "schema": NESTED}}
    shaped = ask(server, {"content": '{"who": {"name": "a"}, "tags": []}'}, text=shape)
    assert json.loads(shaped.output_text) == {"who": {"name": "a"}, "tags": []}


def test_refusals_in_this_apis_words(server: Served) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "f", "parameters": [1]}]}, "tools[0].parameters"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"role": "wizard", "content": "x"}]}, "input"),
        ({"max_output_tokens": 100_000}, "max_output_tokens"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"store": True}, "store"),
        ({"max_tokens": 2}, "max_output_tokens"),
        ({"n": 3}, "n"),
        ({"stop": ["x"]}, "stop"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"text": "hello"}, "text"),
    ]
    for fields, param in cases:
        reply = httpx.post(server.url + "/responses", json={"input": "x", **fields})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), fields
    reply = httpx.post(server.url + "/responses", json={"input": "x", "n": None, "wizardry": 1, "user": "me"})
    assert reply.status_code == 200 and reply.headers["X-Octupus-Ignored"] == "wizardry"
    with pytest.raises(openai.BadRequestError):
        ask(server, "x", tools=[{"type": "function", "name": "f", "parameters": WEATHER | {"type": "frog"}}])
