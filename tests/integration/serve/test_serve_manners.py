"""What one client does is nobody else's trouble, and what older clients send is understood."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from octupus.serve.protocol import MAX_MESSAGES
from octupus.serve.service import LARGE_BYTES
from tests.integration.serve.test_serve_chat import TOOLS, as_told, ask
from tests.support.served import served
from tests.support.tiny import tiny_wire

LARGE: dict[str, Any] = {"messages": [{"role": "user", "content": "x" * 2 * LARGE_BYTES}]}


def test_a_large_request_waits_for_large_ones_and_nobody_for_it() -> None:
    with served(script=as_told, max_model_len=2048) as server:
        over, begun = threading.Event(), threading.Event()

        def busy() -> None:
            begun.set()
            assert over.wait(60)

        server.service._large.submit(busy)
        assert begun.wait(10)
        said: list[int] = []
        asked = threading.Thread(
            target=lambda: said.append(httpx.post(server.url + "/v1/chat/completions", json=LARGE).status_code)
        )
        asked.start()
        for _ in range(8):  # more than the threads that others share
            assert ask(server, {"calls": [["ping", {}]]}, tools=TOOLS).choices[0].message.tool_calls
        assert not said, "it waits for its turn"
        over.set()
        asked.join(30)
        assert said == [400], "and is refused: longer than the context"


def test_so_many_messages_are_refused_before_they_are_looked_at() -> None:
    with served(script=as_told) as server:
        body = {"messages": [{"role": "user", "content": "x"}] * (MAX_MESSAGES + 1)}
        reply = httpx.post(server.url + "/v1/chat/completions", json=body)
        assert reply.status_code == 400 and reply.json()["error"]["param"] == "messages"


@pytest.mark.parametrize("chunk", [1, 5])
def test_nothing_leaves_behind_a_stop_string_however_the_tokens_come(chunk: int) -> None:
    with served(script=as_told, engine_args={"chunk": chunk}) as server:
        said = {"content": "one two STOP three four five six"}
        for fields in ({}, {"logprobs": True}):
            choice = ask(server, said, stop=["STOP"], **fields).choices[0]
            assert (choice.message.content, choice.finish_reason) == ("one two ", "stop")


def test_a_client_that_leaves_at_once_is_no_error_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    with served(script=as_told, engine_args={"delay_s": 0.001}) as server:
        there = urlsplit(server.url)
        assert there.hostname and there.port
        body = json.dumps({"messages": [{"role": "user", "content": "Hello"}], "stream": True}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        for number in range(300):
            with socket.create_connection((there.hostname, there.port)) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # leave with a reset
                client.sendall(head + body)
                time.sleep(0.00003 * (number % 300))
        deadline = time.monotonic() + 20
        while server.service.at_work and time.monotonic() < deadline:
            time.sleep(0.01)
        text = httpx.get(server.url + "/metrics").text
        assert server.service.at_work == 0 and 'status="500"' not in text
    assert not [record for record in caplog.records if record.exc_info]


def test_the_older_form_of_calls_is_understood() -> None:
    prompts: list[list[int]] = []

    def noted(prompt: list[int]) -> list[int]:
        prompts.append(prompt)
        return as_told(prompt)

    call = {"name": "ping", "arguments": "{}"}
    older = [{"role": "assistant", "content": None, "function_call": call}, {"role": "function", "name": "ping"}]
    newer = [{"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function", "function": call}]}]
    newer.append({"role": "tool", "tool_call_id": "a"})
    with served(script=noted) as server:
        for history in (older, newer):
            turns = [{"role": "user", "content": "x"}, *history[:1], {**history[1], "content": "sunny"}]
            ask(server, messages=turns, tools=TOOLS)
    _, one, two = prompts  # the first one was the canary's
    assert one == two
    assert [m.role for m in tiny_wire().parse(one).messages if m.tool_calls] == ["assistant"]


def test_the_scheme_of_a_key_is_asked_for_in_any_case() -> None:
    with served(keys=("secret",)) as server:
        for given, status in (("Bearer secret", 200), ("bearer secret", 200), ("secret", 401), ("Basic secret", 401)):
            reply = httpx.get(server.url + "/v1/models", headers={"Authorization": given})
            assert reply.status_code == status, given


def test_no_character_ends_an_events_line() -> None:
    said = "one\u2028two\u0085three\u2029four 中"
    body = {"messages": [{"role": "user", "content": json.dumps({"content": said})}], "stream": True}
    with (
        served(script=as_told) as server,
        httpx.stream("POST", server.url + "/v1/chat/completions", json=body) as reply,
    ):
        lines = [line for line in reply.iter_lines() if line]
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line != "data: [DONE]"]
    assert "".join(e["choices"][0]["delta"].get("content") or "" for e in events if e["choices"]) == said
