"""A fake OpenAI endpoint for eval's tests: no model, answers from a function, says so in its name."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from eval.oracle import Truth, spoil
from eval.sample import BfclData
from octupus.runs import HEARTBEAT_S, Endpoint, Run
from octupus.wire.messages import Message, ToolCall

Answer = Callable[[dict[str, Any]], dict[str, Any] | web.Response]


def reply(calls: list[tuple[str, Any]], text: str = "", finish: str | None = None) -> dict[str, Any]:
    """A chat completion; arguments that are text go out as they are."""
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = [
            {
                "id": f"call_{i}",
                "type": "function",
                "function": {
                    "name": name,
                    "arguments": a if isinstance(a, str) else json.dumps(a, ensure_ascii=False),
                },
            }
            for i, (name, a) in enumerate(calls)
        ]
    finish = finish or ("tool_calls" if calls else "stop")
    return {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "created": 0,
        "model": "fake-openai-endpoint-for-tests",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }


@dataclass
class FakeOpenAIEndpoint:
    """Serves on a free port in a thread of its own and publishes itself in a run folder."""

    answer: Answer
    requests: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _runner: web.AppRunner | None = None

    async def _chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append(body)
        answer = self.answer(body)
        return answer if isinstance(answer, web.Response) else web.json_response(answer)

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(text="fake")

    async def _start(self) -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/health", self._health)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    def start(self) -> None:
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)

    def stop(self) -> None:
        if self._runner is not None:
            asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
            self._runner = None

    def stop_soon(self) -> None:
        """From inside an answer: close the socket, as a server that is killed does."""
        assert self._runner is not None
        self._loop.create_task(self._runner.cleanup())
        self._runner = None

    def publish(self, run: Run, replica: str) -> None:
        run.publish_endpoint(
            replica,
            Endpoint(
                url=self.url,
                model="fake-openai-endpoint-for-tests",
                instance=self.url,
                heartbeat_at=time.time(),
                fingerprint="sha256:fake",
            ),
        )


@contextmanager
def fake_endpoint(run: Run, answer: Answer, *replicas: str) -> Iterator[FakeOpenAIEndpoint]:
    """One that answers as each of ``replicas`` (0: the run's server) until the block ends."""
    endpoint = FakeOpenAIEndpoint(answer)
    endpoint.start()
    over = threading.Event()

    def publish() -> None:
        for replica in replicas or ("0",):
            endpoint.publish(run, replica)

    def beat() -> None:
        while not over.wait(HEARTBEAT_S):
            publish()

    publish()
    beating = threading.Thread(target=beat, daemon=True)
    beating.start()
    try:
        yield endpoint
    finally:
        over.set()
        beating.join()
        endpoint.stop()


def parsed(body: dict[str, Any]) -> tuple[list[Message], list[dict[str, Any]]]:
    """A request's messages and tools."""
    messages = []
    for m in body["messages"]:
        functions = [call["function"] for call in m.get("tool_calls") or ()]
        calls = tuple(ToolCall.from_text(f["name"], f["arguments"]) for f in functions)
        messages.append(Message(role=m["role"], content=m.get("content") or "", tool_calls=calls))
    return messages, body.get("tools", [])


def perfect(categories: list[str], wrong: bool = False) -> Answer:
    """Answers BFCL's entries with the ground truth, or deliberately wrongly."""
    truth = Truth(BfclData.ready(), categories)

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        messages, tools = parsed(body)
        calls, text = truth.answer(messages, tools)
        return reply(*(spoil(calls, text, tools) if wrong else (calls, text)))

    return answer
