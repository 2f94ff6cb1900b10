"""The real vLLM on a tiny random model, one start for all: every call legal, one stream, no process left behind."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import os
import signal
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import httpx
import openai
import pytest
from jsonschema import Draft202012Validator

from octupus.runs import Run
from tests.support.conformance import run_all, table
from tests.support.launched import Launched, marked
from tests.support.tiny import tiny_tokenizer, tiny_wire
from tests.support.tiny_model import tiny_model

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (make setup)")

ITEM = {"type": "object", "properties": {"sku": {"type": "string", "maxLength": 8}, "n": {"type": "integer"}}}
PARAMETERS: dict[str, Any] = {
    "get_weather": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["celsius", "fahrenheit", None]}},
        "required": ["city", "unit"],
    },
    "get_weather_soon": {
        "type": "object",
        "properties": {"days": {"type": "integer"}, "detail": {"type": "boolean"}, "p": {"type": "number"}},
        "required": ["days"],
        "additionalProperties": False,
    },
    "下单": {
        "type": "object",
        "properties": {
            "items": {"type": "array", "items": {**ITEM, "required": ["sku"]}, "minItems": 1, "maxItems": 3},
            "note": {"anyOf": [{"type": "string", "maxLength": 6}, {"type": "null"}]},
        },
        "required": ["items"],
    },
    "ping": None,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "description": f"{name}!"} | ({"parameters": p} if p else {})}
    for name, p in PARAMETERS.items()
]
NAMED = {"type": "function", "function": {"name": "下单"}}
MARK = f"octupus-test-{uuid.uuid4()}"


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    folder = tmp_path_factory.mktemp("vllm")
    model = tiny_model(folder / "tiny")
    sizes = ("--max-model-len", "4096", "--default-max-tokens", "300", "--tensor-parallel-size", "1")
    with Launched("--model", model, "--run", folder / "run", *sizes, OCTUPUS_TEST=MARK) as server:
        server.run = Run(folder / "run")  # type: ignore[attr-defined]
        server.ready()
        yield server
    for pid in marked("OCTUPUS_TEST", MARK):  # only if a test failed half-way
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def client(launched: Launched) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{launched.url}/v1", api_key="any", max_retries=0, timeout=120)


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    messages = fields.pop("messages", [{"role": "user", "content": "What is the weather in Paris?"}])
    return client.chat.completions.create(model="gpt-4-turbo-2024-04-09", messages=messages, **fields)


def shape(completion: Any) -> dict[str, Any]:
    choice = completion.choices[0]
    calls = [
        (c.function.name, c.function.arguments, (c.model_extra or {}).get("incomplete", False))
        for c in choice.message.tool_calls or ()
    ]
    return {"content": choice.message.content, "calls": calls, "finish": choice.finish_reason}


def streamed(client: openai.OpenAI, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    with client.chat.completions.stream(model="x", messages=messages, **fields) as stream:  # type: ignore[arg-type]
        for _ in stream:
            pass
        try:
            return shape(stream.get_final_completion())
        except openai.LengthFinishReasonError as error:
            return shape(error.completion)


def test_every_complete_call_is_legal(client: openai.OpenAI) -> None:
    choices: list[Any] = ["required", "auto", NAMED]
    cases = list(itertools.product(choices, [True, False], range(14)))

    def one(case: tuple[Any, bool, int]) -> tuple[Any, bool, dict[str, Any]]:
        choice, parallel, seed = case
        fields = {"tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": parallel, "seed": seed}
        return choice, parallel, shape(ask(client, temperature=1.0, **fields))

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, cases))
    complete = 0
    for choice, parallel, answer in answers:
        for name, arguments, incomplete in answer["calls"]:
            assert name in PARAMETERS and (choice is not NAMED or name == "下单")
            if not incomplete:
                complete += 1
                schema = PARAMETERS[name] or {"type": "object", "maxProperties": 0}
                Draft202012Validator(schema).validate(json.loads(arguments))
            else:
                assert answer["finish"] == "length"
        if answer["finish"] != "length":
            assert answer["finish"] == ("tool_calls" if answer["calls"] and choice is not NAMED else "stop")
            assert choice == "auto" or answer["calls"]
        assert parallel or len(answer["calls"]) <= 1
    assert complete >= 50


def test_a_slice_of_the_conformance_table(client: openai.OpenAI) -> None:
    """Few tools here; all of it, for two dialects: test_serve_conformance.py."""
    cases = [case for case in table() if case.tools <= 2][::2]
    finishes, wrong = run_all(client, cases, tiny_tokenizer().eos_id)
    assert not wrong and len(cases) >= 24 and len(finishes) == 3


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_streamed_equals_whole_for_a_seed(client: openai.OpenAI, choice: str) -> None:
    for seed in range(3):
        fields: dict[str, Any] = {"tools": TOOLS, "tool_choice": choice, "seed": seed, "max_tokens": 80}
        assert streamed(client, **fields) == shape(ask(client, **fields))


def test_json_content_usage_choices_and_log_probabilities(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = ask(client, response_format=wanted, n=2, seed=1, logprobs=True, top_logprobs=2)
    for choice in answer.choices:
        Draft202012Validator(schema).validate(json.loads(choice.message.content))
        entries = choice.logprobs.content
        assert b"".join(bytes(e.bytes) for e in entries).decode() == choice.message.content
        assert all(len(e.top_logprobs) == 2 for e in entries)
    assert answer.usage.completion_tokens >= sum(len(c.logprobs.content) for c in answer.choices)
    greedy = [ask(client, temperature=0, max_tokens=20).choices[0].message.content for _ in range(2)]
    assert greedy[0] == greedy[1]


def test_hostile_requests_fail_alone(launched: Launched, client: openai.OpenAI) -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(80):
        deep = {"type": "object", "properties": {"x": deep}, "required": ["x"]}
    schemas: list[Any] = [
        deep,
        {"type": "object", "properties": {"x": {"enum": [f"value {i}" for i in range(20_000)]}}},
        {"type": "object", "properties": {"x": {"type": "string", "pattern": "^(a+)+$"}}},
        {"$ref": "#"},
        {"type": "object", "properties": {"x": {"type": "array", "minItems": 10_000, "items": {}}}, "required": ["x"]},
        False,
    ]
    bodies = [
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": s}}], "tool_choice": "required"}
        for s in schemas
    ]
    bodies += [{"temperature": 1e308}, {"logit_bias": {"9999999": 5}}, {"seed": -1, "max_tokens": 3}, {"top_k": 10**9}]

    def one(extra: dict[str, Any]) -> int:
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 40, **extra}
        return httpx.post(launched.url + "/v1/chat/completions", json=body, timeout=120).status_code

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        hostile = pool.map(one, bodies)
        good = [pool.submit(ask, client, tools=TOOLS, tool_choice="required", seed=i, max_tokens=40) for i in range(6)]
        assert all(answer.result().choices[0].message.tool_calls for answer in good)
        assert {status for status in hostile} <= {200, 400, 422}
    assert httpx.get(launched.url + "/ready").status_code == 200


def test_a_long_prompt_and_a_seed_do_not_meet_in_pieces(client: openai.OpenAI) -> None:
    """Prefilled in chunks, seeded requests would kill vLLM's CPU engine for everybody."""
    messages = [{"role": "user", "content": "weather " * 1200}]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(ask, client, messages=messages, seed=i, max_tokens=4) for i in range(6)]
        assert all(answer.result().usage.prompt_tokens > 1200 for answer in asked)


def test_what_is_prefilled_counts_and_comes_as_if_it_were_sampled(client: openai.OpenAI) -> None:
    """The call's name leaves no choice; a limit may fall into it, and asking for probabilities changes nothing."""
    for limit in (1, 2, 3, 5, 8, 13, 40):
        for choice in ("none", "required", NAMED):
            fields = {
                "tools": TOOLS,
                "tool_choice": choice,
                "max_tokens": limit,
                "seed": limit,
                "frequency_penalty": 1.5,
            }
            whole, told = ask(client, **fields), ask(client, **fields, logprobs=True, top_logprobs=1)
            assert shape(whole) == shape(told) == streamed(client, **fields)
            assert whole.usage == told.usage and whole.usage.completion_tokens <= limit
            cut = whole.choices[0].finish_reason == "length"
            assert not cut or whole.usage.completion_tokens == limit
            entries = told.choices[0].logprobs.content if choice == "none" and limit > 1 else []
            said = b"".join(bytes(entry.bytes) for entry in entries).decode(errors="replace")
            assert said == (told.choices[0].message.content or "")


def test_metrics_tell_what_the_constraint_did_in_the_engines_process(launched: Launched, client: openai.OpenAI) -> None:
    """Masks are written there, not in the process that answers: what it counts comes over."""

    def told() -> dict[str, float]:
        lines = httpx.get(launched.url + "/metrics").text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("octupus_constraint_"))
        return {name.removeprefix("octupus_constraint_"): float(value) for name, value in pairs}

    new = {"type": "object", "properties": {"never_seen": {"type": "integer"}}, "required": ["never_seen"]}
    tools: Any = [{"type": "function", "function": {"name": "new_one", "parameters": new}}]
    before = told()
    used = ask(client, tools=tools, tool_choice="required", seed=1, max_tokens=30).usage.completion_tokens
    after = told()
    grown = {name: after[name] - before[name] for name in after}
    # What must come (the call, its name) is prefilled: it is counted, and nothing was sampled for it.
    assert grown["masks_total"] == used - len(tiny_wire().tokenizer.encode("new_one")) - 2
    assert grown["worked_out_total"] > 0 and grown["compiles_total"] >= 2
    assert 0 < grown["mask_seconds_total"] < 60 and after["cached_bytes"] > before["cached_bytes"] > 0


def test_a_signal_under_load_ends_the_server_and_everything_it_started(launched: Launched) -> None:
    run: Run = launched.run  # type: ignore[attr-defined]
    assert len(run.endpoints()) == 1 and len(marked("OCTUPUS_TEST", MARK)) >= 2
    body = {"messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 2000, "tool_choice": "none"}
    with httpx.stream("POST", launched.url + "/v1/chat/completions", json=body, timeout=120) as reply:
        lines = reply.iter_lines()
        next(lines)
        launched.process.terminate()
        told = [line for line in lines if line]
    assert told[-1] == "data: [DONE]"
    assert launched.ended() == 0, launched.said[-3000:]
    assert marked("OCTUPUS_TEST", MARK) == [] and run.endpoints() == {}
