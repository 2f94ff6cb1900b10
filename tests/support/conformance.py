"""What OpenAI's chat API promises, as a table of requests, and a checker that shares no code with the server."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import openai
from jsonschema import Draft202012Validator

LIMIT = 160
KINDS: list[dict[str, Any]] = [
    {"type": "string", "maxLength": 6},
    {"type": "integer", "minimum": -9, "maximum": 99},
    {"enum": ["celsius", "fahrenheit", "开"]},
    {"type": "boolean"},
    {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 3},
    {"anyOf": [{"type": "string", "maxLength": 4}, {"type": "null"}]},
    {"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"], "additionalProperties": False},
]


@cache
def schema_of(index: int) -> dict[str, Any]:
    """Every function differs in its schema; number 1 takes nothing."""
    names = [] if index == 1 else [f"p{i}" for i in range(1 + index % 3)]
    properties = {name: KINDS[(index + i) % len(KINDS)] for i, name in enumerate(names)}
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def name_of(index: int) -> str:
    """Some are prefixes of others, one is not ASCII."""
    return "查询" if index == 2 else f"f{index}"


@cache
def tools_of(count: int, strict: bool) -> list[dict[str, Any]]:
    extra = {"strict": True} if strict else {}
    functions = [{"name": name_of(i), "parameters": schema_of(i), **extra} for i in range(count)]
    return [{"type": "function", "function": function} for function in functions]


@dataclass(frozen=True)
class Case:
    """One request. ``limit`` tokens at most; ``ending``: the end of turn is made likely, or impossible."""

    choice: str
    parallel: bool
    strict: bool
    tools: int
    limit: int = LIMIT
    ending: bool = True
    seed: int = field(default=0, compare=False)

    @property
    def id(self) -> str:
        flags = ("parallel" if self.parallel else "single") + ("-strict" if self.strict else "")
        cut = f"-cut{self.limit}" if self.limit != LIMIT else ""
        return f"{self.choice}-{flags}-{self.tools}tools{cut}{'' if self.ending else '-endless'}"

    @property
    def named(self) -> str:
        return name_of(self.tools - 1)

    @property
    def allowed(self) -> set[str]:
        """The names that may be called."""
        if self.choice == "none":
            return set()
        if self.choice == "named":
            return {self.named}
        if self.choice.startswith("allowed"):
            return {name_of(i) for i in range(0, self.tools, 2)}
        return {name_of(i) for i in range(self.tools)}

    def fields(self, end_id: int) -> dict[str, Any]:
        """What the official client is called with."""

        def function(name: str) -> dict[str, Any]:
            return {"type": "function", "function": {"name": name}}

        choice: Any = self.choice
        if self.choice == "named":
            choice = function(self.named)
        elif self.choice.startswith("allowed"):
            listed = [function(name) for name in sorted(self.allowed)]
            choice = {
                "type": "allowed_tools",
                "allowed_tools": {"mode": self.choice.partition("-")[2], "tools": listed},
            }
        said: dict[str, Any] = {
            "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
            "max_completion_tokens": self.limit,
            "logit_bias": {str(end_id): 4 if self.ending else -100},
            "seed": self.seed,
        }
        if self.tools:
            said |= {"tools": tools_of(self.tools, self.strict), "parallel_tool_calls": self.parallel}
        return said if self.choice == "absent" else said | {"tool_choice": choice}


CHOICES = ("auto", "none", "required", "named", "allowed-auto", "allowed-required")


def table() -> list[Case]:
    """Choice x parallel x strict x number of tools; then endings: by the model, and cut at every kind of place."""
    found = [
        Case(choice, parallel, strict, count)
        for count in (1, 2, 16, 64, 256)
        for choice in CHOICES
        for parallel in (True, False)
        for strict in (True, False)
    ]
    found += [Case(choice, True, False, 0) for choice in ("absent", "auto", "none")]
    found += [Case("absent", parallel, True, 2) for parallel in (True, False)]
    found += [Case(choice, True, False, 16, limit) for choice in CHOICES for limit in (1, 3, 7, 12)]
    found += [Case(choice, True, True, 2, 60, ending=False) for choice in CHOICES]
    return [Case(**{**vars(case), "seed": number}) for number, case in enumerate(found)]


Answer = dict[str, Any]


def whole(client: openai.OpenAI, fields: dict[str, Any]) -> Answer:
    """The answer that is not streamed, as plain data without ids."""
    got = client.chat.completions.create(model="any", **fields)
    (choice,) = got.choices
    assert got.object == "chat.completion" and choice.index == 0 and choice.message.role == "assistant"
    assert got.usage is not None and got.usage.total_tokens == got.usage.prompt_tokens + got.usage.completion_tokens
    given = choice.message.tool_calls
    assert given is None or given  # absent rather than empty
    calls = [
        {"name": call.function.name, "arguments": call.function.arguments, **(call.model_extra or {})}
        for call in given or ()
        if call.type == "function" and call.id.startswith("call_")
    ]
    assert len(calls) == len(given or ()) == len({call.id for call in given or ()})
    return {
        "content": choice.message.content,
        "calls": calls,
        "finish": choice.finish_reason,
        "usage": got.usage.model_dump(),
    }


def streamed(client: openai.OpenAI, fields: dict[str, Any]) -> Answer:
    """The same from a stream, put together by hand from what OpenAI promises of chunks."""
    content: list[str] | None = None
    calls: list[dict[str, Any]] = []
    finish = usage = None
    first, ids = True, set()
    for chunk in client.chat.completions.create(
        model="any", stream=True, stream_options={"include_usage": True}, **fields
    ):
        ids.add(chunk.id)
        assert chunk.object == "chat.completion.chunk" and usage is None, "nothing follows usage"
        if not chunk.choices:
            assert finish is not None and chunk.usage is not None
            usage = chunk.usage.model_dump()
            continue
        (choice,) = chunk.choices
        delta = choice.delta
        assert finish is None and chunk.usage is None, "nothing but usage follows the finish reason"
        assert delta.role == ("assistant" if first else None), "the role comes first, and once"
        first = False
        if delta.content is not None:
            content = [*(content or []), delta.content]
        for piece in delta.tool_calls or ():
            if piece.index == len(calls):
                assert piece.id and piece.type == "function" and piece.function and piece.function.name
                calls.append({"id": piece.id, "name": piece.function.name, "arguments": ""})
            else:
                assert piece.index == len(calls) - 1, "calls come one after the other"
                assert piece.id is None and piece.type is None and piece.function and piece.function.name is None
            calls[piece.index]["arguments"] += (piece.function and piece.function.arguments) or ""
            calls[piece.index] |= piece.model_extra or {}
        finish = choice.finish_reason
    assert len(ids) == 1 and len({call.pop("id") for call in calls}) == len(calls)
    text = None if content is None else "".join(content)
    return {"content": text, "calls": calls, "finish": finish, "usage": usage}


def problems(case: Case, answer: Answer) -> Iterator[str]:
    """What is wrong with an answer; nothing, if all is as OpenAI's clients expect."""
    calls, finish, cut = answer["calls"], answer["finish"], answer["finish"] == "length"
    complete = [call for call in calls if not call.get("incomplete")]
    if answer["usage"]["completion_tokens"] > case.limit or (
        cut and answer["usage"]["completion_tokens"] != case.limit
    ):
        yield "the limit was not kept"
    expected = "tool_calls" if calls and case.choice != "named" else "stop"
    if not cut and finish != expected:
        yield f"finish_reason {finish}, not {expected}"
    if not case.ending and finish == "stop" and not calls:
        yield "ended though the end was biased away"
    if len(calls) - len(complete) > (1 if cut else 0) or any(call.get("incomplete") for call in calls[:-1]):
        yield "only the last call of a cut answer may be incomplete"
    must = case.choice in ("required", "named", "allowed-required")
    if must and not cut and not calls:
        yield "no call"
    if must and answer["content"]:
        yield "content beside a forced call"
    if (not case.parallel or case.choice == "named") and len(calls) > 1:
        yield f"{len(calls)} calls, one was allowed"
    if not calls and answer["content"] is None:
        yield "neither content nor calls"
    for call in calls:
        if call["name"] not in case.allowed:
            yield f"call of {call['name']}"
    for call in complete:
        schema = next((schema_of(i) for i in range(case.tools) if name_of(i) == call["name"]), False)
        try:
            wrong = [error.message for error in Draft202012Validator(schema).iter_errors(json.loads(call["arguments"]))]
        except ValueError as error:
            wrong = [str(error)]
        if wrong:
            yield f"illegal call {call}: {wrong[0]}"


def run(client: openai.OpenAI, case: Case, end_id: int) -> tuple[Answer, list[str]]:
    """The case's answer, and what is wrong with it, the stream's differences included."""
    fields = case.fields(end_id)
    answer, stream = whole(client, fields), streamed(client, fields)
    found = list(problems(case, answer))
    return answer, found if answer == stream else [*found, f"streamed: {stream}, whole: {answer}"]


def run_all(client: openai.OpenAI, cases: Sequence[Case], end_id: int) -> tuple[Counter[str], dict[str, list[str]]]:
    """How often each finish reason came, and the problems of the cases that have any; 16 cases at a time."""

    def one(case: Case) -> tuple[Answer, list[str]]:
        return run(client, case, end_id)

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(one, cases))
    finishes = Counter(answer["finish"] for answer, _ in found)
    return finishes, {case.id: wrong for case, (_, wrong) in zip(cases, found, strict=True) if wrong}
