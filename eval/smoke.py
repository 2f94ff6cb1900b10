"""Ten calls against an endpoint: does it answer, does it call, is what it calls legal? For deployments."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from eval.checker import judge, schemas_of
from eval.endpoint import OPENER

LIMIT_S = 18.0
MAX_TOKENS = 48


def _tool(name: str, properties: Mapping[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {"type": "object", "properties": dict(properties), "required": required}
    return {"type": "function", "function": {"name": name, "description": f"{name}.", "parameters": schema}}


CITY = _tool("get_weather", {"city": {"type": "string"}, "days": {"type": "integer"}}, ["city"])
UNIT = _tool("set_unit", {"unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}}, ["unit"])
SWITCH = _tool("switch", {"on": {"type": "boolean"}}, ["on"])
TOOLS = [CITY, UNIT, SWITCH]
WEATHER, UNITS, CHINESE = "What is the weather in Paris?", "Use Celsius, please.", "北京今天天气怎么样?"


class Wrong(Exception):
    """What an answer lacks."""


@dataclass(frozen=True)
class Endpoint:
    base_url: str
    key: str
    model: str
    deadline: float

    def ask(self, question: str, **more: Any) -> Any:
        """The answer's JSON, or the lines of a stream.

        Raises:
            Wrong: an error status, or no answer in time.
        """
        body = {"model": self.model, "messages": [{"role": "user", "content": question}], "temperature": 0}
        body |= {"max_tokens": MAX_TOKENS, **more}
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.base_url}/chat/completions", json.dumps(body).encode(), headers)
        try:
            with OPENER.open(request, timeout=max(0.1, self.deadline - time.monotonic())) as response:
                return response.read().decode().splitlines() if more.get("stream") else json.load(response)
        except urllib.error.HTTPError as error:
            raise Wrong(f"HTTP {error.code}: {error.read()[:200].decode(errors='replace')}") from error
        except (OSError, ValueError) as error:
            raise Wrong(f"{type(error).__name__}: {error}") from error

    def choice(self, question: str, **more: Any) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = self.ask(question, **more)["choices"][0]
            return found
        except (LookupError, TypeError) as error:
            raise Wrong(f"no choice in the answer: {error!r}") from error


def calls(choice: Mapping[str, Any], at_least: int = 0, at_most: int = 99) -> str:
    """Judge a choice's calls; a call cut by our own output limit is none to be judged."""
    made = choice["message"].get("tool_calls") or []
    if not at_least <= len(made) <= at_most:
        raise Wrong(f"{len(made)} calls where {at_least} to {at_most} are wanted")
    for place, call in enumerate(made, 1):
        function = call["function"]
        cut = choice["finish_reason"] == "length" and place == len(made)
        verdict = judge({**function, "incomplete": call.get("incomplete", False)}, schemas_of(TOOLS))
        if verdict.status not in ("legal", "cut") and not (cut and verdict.status == "not JSON"):
            raise Wrong(f"{function['name']}({function['arguments']}): {verdict.status} {verdict.detail}")
    return f"{len(made)} calls"


def _named(e: Endpoint) -> str:
    choice = e.choice(UNITS, tools=TOOLS, tool_choice={"type": "function", "function": {"name": "set_unit"}})
    name = choice["message"]["tool_calls"][0]["function"]["name"] if choice["message"].get("tool_calls") else None
    if name != "set_unit":
        raise Wrong(f"called {name!r} where set_unit was named")
    return calls(choice, 1, 1)


def _text(e: Endpoint) -> str:
    message = e.choice("Hello")["message"]
    if not message.get("content"):
        raise Wrong("no text")
    return f"{len(message['content'])} characters"


def _usage(e: Endpoint) -> str:
    usage = e.ask("Hello").get("usage") or {}
    if not (usage.get("prompt_tokens") and usage.get("completion_tokens")):
        raise Wrong("no usage, which BFCL needs")
    return f"{usage['prompt_tokens']} tokens in, {usage['completion_tokens']} out"


def _streamed(e: Endpoint) -> str:
    lines = [line for line in e.ask(WEATHER, tools=TOOLS, stream=True) if line.startswith("data: ")]
    if not lines or lines[-1] != "data: [DONE]":
        raise Wrong("the stream does not end with [DONE]")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    if any("error" in chunk for chunk in chunks):
        raise Wrong("an error in the stream")
    return f"{len(chunks)} chunks"


def _results(e: Endpoint) -> str:
    call = {"id": "call_0", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    said = [{"role": "user", "content": WEATHER}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    said += [{"role": "tool", "tool_call_id": "call_0", "content": '{"sky": "clear"}'}]
    return calls(e.choice("", messages=said, tools=TOOLS))


CHECKS: dict[str, Callable[[Endpoint], str]] = {
    "text without tools": _text,
    "usage is told": _usage,
    "tools, auto": lambda e: calls(e.choice(WEATHER, tools=TOOLS)),
    "tools, auto, Chinese": lambda e: calls(e.choice(CHINESE, tools=TOOLS)),
    "tools, none": lambda e: calls(e.choice(WEATHER, tools=TOOLS, tool_choice="none"), 0, 0),
    "tools, required": lambda e: calls(e.choice(WEATHER, tools=TOOLS, tool_choice="required"), 1),
    "tools, named": _named,
    "one call at most": lambda e: calls(e.choice(WEATHER, tools=TOOLS, parallel_tool_calls=False), 0, 1),
    "a stream": _streamed,
    "a tool's result": _results,
}


def run(base_url: str, key: str, model: str) -> Iterator[tuple[str, bool, str]]:
    """Name, whether all is well, and what was found, of each check; all are asked at once."""
    endpoint = Endpoint(base_url, key, model, time.monotonic() + LIMIT_S)

    def one(check: Callable[[Endpoint], str]) -> tuple[bool, str]:
        try:
            return True, check(endpoint)
        except Wrong as wrong:
            return False, str(wrong)
        except (LookupError, TypeError, ValueError) as error:
            return False, f"not an answer in OpenAI's form: {error!r}"

    with ThreadPoolExecutor(len(CHECKS)) as pool:
        yield from ((name, *found) for name, found in zip(CHECKS, pool.map(one, CHECKS.values()), strict=True))
