"""Nobody who writes a text of a request can write a token: the turns of the prompt stay those of the request."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from octupus.config import ServeSection
from octupus.serve.errors import ApiError
from octupus.serve.protocol import read_json, read_task
from octupus.serve.scripted import ScriptedEngine
from octupus.serve.service import Service, Settings
from octupus.wire import Wire
from tests.support.tiny import tiny_dialect

DIALECTS = ("octupus", "octupus-v1", "qwen2_5")
HARMLESS = "harmless"


def body(text: Callable[[str], str]) -> dict[str, Any]:
    """A conversation with everything that one can hold; ``text`` says what stands in each kind of field."""
    schema = {
        "type": "object",
        "description": text("schema description"),
        "properties": {
            "city": {"enum": ["x", text("enum value")], "description": text("parameter description")},
            text("parameter name"): {"type": "string", "const": text("const"), "default": text("default")},
        },
    }
    function = {"name": text("function name"), "description": text("description"), "parameters": schema}
    call = {"name": text("called name"), "arguments": json.dumps({text("argument name"): text("argument")})}
    cut = {"name": "f", "arguments": text("cut arguments")}
    return {
        "messages": [
            {"role": "system", "content": text("system")},
            {"role": "user", "name": text("user name"), "content": text("user")},
            {"role": "assistant", "content": text("assistant")},
            {"role": "user", "content": [{"type": "text", "text": text("part")}, {"type": "text", "text": "and"}]},
            {"role": "assistant", "tool_calls": [{"id": text("call id"), "type": "function", "function": call}]},
            {"role": "tool", "tool_call_id": text("call id"), "content": text("tool result")},
            {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": cut}]},
            {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": text("result part")}]},
            {"role": "user", "content": "go on"},
        ],
        "tools": [{"type": "function", "function": function, text("unknown key"): text("unknown value")}],
    }


def fields() -> list[str]:
    seen: dict[str, None] = {}
    body(lambda field: seen.setdefault(field) or HARMLESS)
    return list(seen)


@pytest.fixture(params=DIALECTS)
async def service(request: pytest.FixtureRequest) -> Service:
    wire = tiny_dialect(request.param)
    section = ServeSection(engine="scripted", max_model_len=32768)
    service = Service(lambda: ScriptedEngine(None, wire, section), wire, wire.tokenizer, Settings(section, "tiny"))
    service.engine = await service._loaded()
    return service


async def structure(service: Service, request: dict[str, Any]) -> list[int]:
    """The added tokens of the prompt that a request makes, in order."""
    task = read_task(read_json(json.dumps(request).encode()))
    (job,) = await service.jobs(task, "id", 0)
    return [id for id in job.prompt_ids if service.tokenizer.token_bytes(id) is None]


def forgeries(wire: Wire, count: int) -> list[str]:
    """Texts full of what the tokenizer knows as tokens: alone, in turns that look real, cut, doubled."""
    rng = random.Random(7)
    tokens = sorted(wire.tokenizer.added_tokens)
    found = []
    for _ in range(count):
        chosen = [rng.choice(tokens) for _ in range(rng.randint(1, 5))]
        filler = rng.choice(["", " ", "\n", "assistant\n", '{"name": "f", "arguments": {}}', "你好", "\u200b"])
        text = filler.join(chosen) + filler
        if rng.random() < 0.2:
            text = text.replace("|>", "|>|>").replace("<|", "<|<|")
        if rng.random() < 0.2:
            at = rng.randrange(len(text) + 1)
            text = text[:at] + rng.choice(tokens) + text[at:]
        found.append(text)
    return found


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.full)])
async def test_no_text_changes_the_turns(service: Service, count: int) -> None:
    expected = await structure(service, body(lambda field: HARMLESS))
    assert len(expected) >= 9
    places, refused = fields(), 0
    assert len(places) >= 18
    for number, forgery in enumerate(forgeries(service.wire, count)):
        place = places[number % len(places)]
        request = body(lambda field, place=place, forgery=forgery: forgery if field == place else HARMLESS)  # type: ignore[misc]
        try:
            found = await structure(service, request)
        except ApiError as error:  # a name that this dialect cannot write
            assert error.status == 400 and "name" in error.message, (place, forgery, error)
            refused += 1
            continue
        assert found == expected, (place, forgery)
    assert refused <= count // 10


async def test_the_check_would_see_a_forged_token(service: Service) -> None:
    """The same structure with one turn more is another one."""
    request = body(lambda field: HARMLESS)
    request["messages"] += [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]
    assert await structure(service, request) != await structure(service, body(lambda field: HARMLESS))
