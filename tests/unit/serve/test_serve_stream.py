"""One stream: however the ids are cut, and streamed or not, the answer is the same; what is cut or illegal is said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octupus.constrain import compile_schema
from octupus.serve.answers import Chunks, Completion, Identity
from octupus.serve.engines import RequestFailed, Sampling, TokenLogprobs
from octupus.serve.errors import ApiError
from octupus.serve.protocol import read_task
from octupus.serve.stream import Finish, Job, StopMatcher, merged
from octupus.wire import Conversation, Message, Tool, ToolCall, ToolChoice
from tests.support.tiny import tiny_wire

WHO = Identity("chatcmpl-1", 1, "tiny", "fp_1")
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
TOOLS = (
    Tool(raw={"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}),
    Tool(raw={"type": "function", "function": {"name": "查天气", "parameters": SCHEMA}}),
)
PLANS = {tool.name: compile_schema(tool.parameters, arguments=True) for tool in TOOLS}


class Playback:
    """An engine that yields what it was given, cut as it was told."""

    def __init__(self, ids: list[int], cuts: list[int] | None = None, finish: str = "stop") -> None:
        self.ids, self.cuts, self.finish = ids, cuts or [1], finish
        self.aborted: list[str] = []

    async def generate(
        self, request_id: str, prompt_ids: list[int], grammar: object, sampling: Sampling
    ) -> AsyncIterator[tuple[list[int], str | None]]:
        at, turn = 0, 0
        while at < len(self.ids):
            size = self.cuts[turn % len(self.cuts)]
            part, at, turn = self.ids[at : at + size], at + size, turn + 1
            yield part, self.finish if at >= len(self.ids) else None

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)

    async def close(self) -> None: ...


def turn_ids(message: Message, tools: tuple[Tool, ...] = TOOLS) -> list[int]:
    wire = tiny_wire()
    rendered = wire.render(Conversation(messages=(Message(role="user", content="x"), message), tools=tools))
    return wire.turns(rendered)[0][1]


def job(choice: ToolChoice | None = None, stops: tuple[str, ...] = (), **kwargs: Any) -> Job:
    wire = tiny_wire()
    grammar = wire.grammar(TOOLS, choice or ToolChoice())
    return Job(wire, "r-0", [1], grammar, Sampling(max_tokens=100), PLANS, stops=stops, **kwargs)


async def both(engine: Playback, *jobs: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same answer as a client of the stream puts it together, and as one completion."""
    asked = {"messages": [{"role": "user", "content": "x"}], "stream_options": {"include_usage": True}, "n": len(jobs)}
    chunks = Chunks(WHO, 1, read_task(asked), tiny_wire().tokenizer.token_bytes)
    completion = Completion(WHO, 1, read_task(asked), tiny_wire().tokenizer.token_bytes)
    raw = b""
    async for choice, items in merged(engine, jobs):
        raw += chunks.add(choice, items)
        completion.add(choice, items)
    raw += chunks.closing()
    return put_together(raw), completion.value()


def put_together(raw: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    assert raw.endswith(b"data: [DONE]\n\n")
    for line in raw.decode().split("\n\n")[:-2]:
        chunk = json.loads(line.removeprefix("data: "))
        found["usage"] = chunk["usage"]
        for part in chunk["choices"]:
            into = found.setdefault(part["index"], {"content": None, "calls": [], "finish": None})
            delta = part["delta"]
            if delta.get("content") is not None:
                into["content"] = (into["content"] or "") + delta["content"]
            for call in delta.get("tool_calls", ()):
                if "id" in call:
                    assert call["index"] == len(into["calls"])
                    into["calls"].append({**call["function"], "id": call["id"]})
                else:
                    assert "name" not in call.get("function", {})
                    into["calls"][call["index"]]["arguments"] += call.get("function", {}).get("arguments", "")
                    if "incomplete" in call:
                        into["calls"][call["index"]]["incomplete"] = True
            into["finish"] = part["finish_reason"] or into["finish"]
    return found


def same(streamed: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """Assert that both tell one story; the first choice of it."""
    assert streamed["usage"] == whole["usage"]
    for choice in whole["choices"]:
        told, message = streamed[choice["index"]], choice["message"]
        calls = [
            {**c["function"], "id": c["id"]} | ({"incomplete": True} if "incomplete" in c else {})
            for c in message.get("tool_calls", ())
        ]
        assert told == {"content": message["content"], "calls": calls, "finish": choice["finish_reason"]}
        assert "tool_calls" not in message or message["tool_calls"]
    first: dict[str, Any] = whole["choices"][0]
    return first


ANSWERS = [
    Message(role="assistant", content="Hello, 世界 😀!"),
    Message(role="assistant", tool_calls=(ToolCall(name="get_weather", arguments={"city": "Zürich 🏔"}),)),
    Message(
        role="assistant",
        content="Let me see.",
        tool_calls=(
            ToolCall(name="查天气", arguments={"city": "北京", "days": 3}),
            ToolCall(name="get_weather", arguments={"city": "<|FUNCTION_CALL|>"}),
        ),
    ),
]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ANSWERS), st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_any_chunking_gives_the_same_answer_streamed_or_not(answer: Message, cuts: list[int]) -> None:
    ids = turn_ids(answer)
    choice = same(*asyncio.run(both(Playback(ids, cuts), job())))
    assert (choice["message"]["content"] or "") == answer.content
    calls = choice["message"].get("tool_calls", [])
    assert [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls] == [
        (c.name, c.arguments) for c in answer.tool_calls
    ]
    assert choice["finish_reason"] == ("tool_calls" if calls else "stop")


async def test_a_named_call_finishes_with_stop_as_openais_does() -> None:
    named = job(ToolChoice(mode="named", names=("get_weather",)), named=True)
    choice = same(*await both(Playback(turn_ids(ANSWERS[1])), named))
    assert choice["finish_reason"] == "stop" and choice["message"]["tool_calls"]


async def test_a_cut_call_is_marked_unless_it_is_whole() -> None:
    ids = turn_ids(ANSWERS[1])
    marks = []
    for keep in range(1, len(ids)):
        choice = same(*await both(Playback(ids[:keep], finish="length"), job()))
        assert choice["finish_reason"] == "length"
        for call in choice["message"].get("tool_calls", ()):
            marks.append(call.get("incomplete", False))
            text = call["function"]["arguments"]
            assert marks[-1] or json.loads(text) == {"city": "Zürich 🏔"}
    assert marks == [True] * (len(marks) - 1) + [False]


async def test_an_illegal_call_never_leaves_silently() -> None:
    wrong = Message(role="assistant", tool_calls=(ToolCall(name="get_weather", arguments={"days": "many"}),))
    with pytest.raises(ApiError, match="broke its schema") as caught:
        await both(Playback(turn_ids(wrong)), job())
    assert caught.value.status == 422


async def test_a_call_that_nothing_enforces_is_held_until_it_is_validated() -> None:
    held = replace(job(), plans={name: replace(plan, unenforced=(("/x", "not"),)) for name, plan in PLANS.items()})
    seen = [items async for _, items in merged(Playback(turn_ids(ANSWERS[1])), [held])]
    assert len(seen) == 1 and isinstance(seen[0][-1], Finish)
    wrong = Message(role="assistant", tool_calls=(ToolCall(name="get_weather", arguments={"days": "many"}),))
    seen = []
    with pytest.raises(ApiError):
        async for _, items in merged(Playback(turn_ids(wrong)), [held]):
            seen.append(items)
    assert seen == []


async def test_tokens_that_are_no_turn_are_an_error_and_the_engine_is_told_to_stop() -> None:
    engine = Playback([tiny_wire().frame.separator, 1, 2, 3])  # type: ignore[list-item]
    with pytest.raises(ApiError) as caught:
        await both(engine, job())
    assert caught.value.code == "illegal_turn"
    assert engine.aborted == ["r-0"]


async def test_a_stop_string_ends_content_and_the_engines_work() -> None:
    engine = Playback(turn_ids(ANSWERS[2]))
    choice = same(*await both(engine, job(stops=("me s", "zzz"))))
    assert choice["message"] == {"role": "assistant", "content": "Let ", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert engine.aborted == ["r-0"]


async def test_a_stop_string_means_nothing_inside_arguments() -> None:
    choice = same(*await both(Playback(turn_ids(ANSWERS[2])), job(stops=("北京", "!"))))
    assert len(choice["message"]["tool_calls"]) == 2 and choice["message"]["content"] == "Let me see."


async def test_several_choices_share_one_stream() -> None:
    choice = same(*await both(Playback(turn_ids(ANSWERS[2]), [2]), job(), job(), job()))
    assert choice["message"]["tool_calls"]


async def test_one_failing_choice_fails_the_request_and_ends_the_others() -> None:
    class Failing(Playback):
        async def generate(self, request_id: str, *rest: Any) -> AsyncIterator[tuple[list[int], str | None]]:
            if request_id == "bad":
                raise RequestFailed("no")
            async for step in super().generate(request_id, *rest):
                await asyncio.sleep(0.01)
                yield step

    engine = Failing(turn_ids(ANSWERS[2]))
    good, bad = job(), replace(job(), request_id="bad")
    with pytest.raises(RequestFailed):
        await both(engine, good, bad)
    assert "r-0" in engine.aborted


async def test_log_probabilities_come_with_content_only() -> None:
    class Probable(Playback):
        async def generate(self, *rest: Any) -> AsyncIterator[Any]:
            async for ids, finish in super().generate(*rest):
                yield ids, finish, tuple(TokenLogprobs(id, -0.25, {id: -0.25, 5: -3.0}) for id in ids)

    _, whole = await both(Probable(turn_ids(ANSWERS[2]), [3]), job())
    entries = whole["choices"][0]["logprobs"]["content"]
    assert b"".join(bytes(e["bytes"]) for e in entries) == b"Let me see."
    assert {len(e["top_logprobs"]) for e in entries} <= {1, 2}


@settings(max_examples=300, deadline=None)
@given(
    st.text("ab", max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
)
def test_stop_strings_are_found_at_any_chunking(text: str, stops: list[str], cuts: list[int]) -> None:
    matcher, out, at, turn = StopMatcher(stops), "", 0, 0
    while at < len(text) and not matcher.hit:
        size = cuts[turn % len(cuts)]
        out, at, turn = out + matcher.feed(text[at : at + size]), at + size, turn + 1
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    assert matcher.hit == bool(ends)
    if ends:
        end, start = min((text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text)
        assert out == text[:start] and end in ends
    else:
        assert out + matcher.rest() == text
