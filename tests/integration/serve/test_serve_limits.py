"""What ends a request or keeps it out: limits, keys, a client that leaves, a server that drains; what metrics tell."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import httpx
import openai
import pytest

from octupus.wire import Conversation, Message
from tests.integration.serve.test_serve_chat import TOOLS, as_told, ask
from tests.support.served import served
from tests.support.tiny import tiny_wire


def test_bodies_that_cannot_be_read_and_bodies_that_never_come() -> None:
    with served(request_timeout_s=0.5) as server:
        zipped = httpx.post(server.url + "/responses", content=b"no gzip", headers={"Content-Encoding": "gzip"})
        assert (zipped.status_code, zipped.json()["error"]["code"]) == (400, "invalid_body")
        address = server.url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1])), timeout=30) as slow:
            slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_leaves_ends_the_engines_work() -> None:
    with served(engine_args={"delay_s": 0.02, "patience": 1.0}, default_max_tokens=4000) as server:
        engine: Any = server.service.engine
        with httpx.stream(
            "POST",
            server.url + "/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "x"}], "stream": True},
        ) as reply:
            lines = reply.iter_lines()  # kept: dropping the iterator closes the connection
            next(lines)
            assert len(engine.running) == 1
        aborted = threading.Event()

        async def watch() -> None:
            while engine.running or not engine.aborted:
                await asyncio.sleep(0.01)
            aborted.set()

        asyncio.run_coroutine_threadsafe(watch(), server.loop)
        assert aborted.wait(10)
        lines = httpx.get(server.url + "/metrics").text.splitlines()
        (spent,) = (line for line in lines if line.startswith("octupus_completion_tokens_total "))
        assert float(spent.rsplit(" ", 1)[1]) >= 1, "what was generated for nobody was generated all the same"


def test_keys_concurrency_and_strict_names() -> None:
    with served(
        keys=("secret",), model_names="strict", engine_args={"delay_s": 0.02, "patience": 1.0}, max_concurrency=1
    ) as server:
        url = server.url + "/v1/chat/completions"
        body = {"messages": [{"role": "user", "content": "x"}], "stream": True}
        assert httpx.post(url, json=body).status_code == 401
        assert httpx.get(server.url + "/ready").status_code == 200
        key = {"Authorization": "Bearer secret"}
        assert httpx.post(url, json={**body, "model": "gpt-4"}, headers=key).status_code == 404
        with httpx.stream("POST", url, json=body, headers=key) as reply:
            lines = reply.iter_lines()  # kept: dropping the iterator closes the connection
            next(lines)
            full = httpx.post(url, json=body, headers=key)
            assert full.status_code == 429 and full.headers["Retry-After"] == "1"


def test_bytes_that_are_no_text_in_headers_and_paths() -> None:
    with served(keys=("secret",), model_names="strict") as server:
        address = server.url.removeprefix("http://").split(":")
        for path, key in ((b"/v1/models/x", b"\xff\xfe"), (b"/v1/models/%ff", b"secret"), (b"/%ff%00", b"secret")):
            with socket.create_connection((address[0], int(address[1])), timeout=30) as raw:
                raw.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n" % (path, key))
                assert raw.recv(4096).startswith((b"HTTP/1.1 401", b"HTTP/1.1 404", b"HTTP/1.1 400")), path


def test_a_body_beyond_the_limit_is_a_413() -> None:
    with served(max_body_mb=0.01) as server:
        reply = httpx.post(server.url + "/v1/chat/completions", json={"messages": "x" * 20_000})
        assert reply.status_code == 413 and reply.json()["error"]["message"]


def test_a_request_beyond_its_time_ends_with_an_error_event() -> None:
    with served(engine_args={"delay_s": 0.05, "patience": 1.0}, request_timeout_s=0.5) as server:
        with pytest.raises(openai.APIError, match="limit for one request"):
            list(ask(server, stream=True))
        with pytest.raises(openai.APIStatusError) as caught:
            ask(server)
        assert caught.value.status_code == 408


def test_draining_finishes_what_runs_and_refuses_what_comes() -> None:
    with served(script=as_told, engine_args={"delay_s": 0.02}) as server:
        stream = ask(server, {"content": "one two three four five six"}, stream=True)
        next(stream)
        drained = asyncio.run_coroutine_threadsafe(server.service.drain(20), server.loop)
        with pytest.raises(openai.InternalServerError) as caught:
            while True:
                ask(server)
        assert caught.value.status_code == 503
        assert "".join(c.choices[0].delta.content or "" for c in stream).endswith("five six")
        drained.result(20)


def test_at_the_drains_deadline_an_error_event_ends_the_stream() -> None:
    with served(engine_args={"delay_s": 0.05, "patience": 1.0}) as server:
        stream = ask(server, stream=True)
        next(stream)
        drained = asyncio.run_coroutine_threadsafe(server.service.drain(0.2), server.loop)
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        drained.result(20)


def test_a_body_that_is_still_coming_when_the_server_ends_gets_a_503() -> None:
    with served() as server:
        address = server.url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1])), timeout=30) as slow:
            slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            while httpx.get(server.url + "/health").json()["at_work"] == 0:
                continue
            asyncio.run_coroutine_threadsafe(server.service.drain(0.1), server.loop).result(20)
            assert slow.recv(4096).startswith(b"HTTP/1.1 503 ")


def test_an_engine_that_masks_nothing_never_becomes_ready() -> None:
    class Unmasked:
        async def generate(self, request_id: str, prompt_ids: list[int], grammar: Any, sampling: Any) -> Any:
            wire = tiny_wire()
            conversation = Conversation(
                messages=(Message(role="user", content="x"), Message(role="assistant", content="Hello"))
            )
            yield wire.turns(wire.render(conversation))[0][1], "stop"

        async def abort(self, request_id: str) -> None: ...

        async def close(self) -> None: ...

    with served(lambda section: Unmasked()) as server:
        reply = httpx.get(server.url + "/ready")
        assert reply.status_code == 503 and "mask is not live" in reply.json()["reason"]
        assert httpx.post(server.url + "/v1/chat/completions", json={}).status_code == 503


def test_metrics_tell_what_was_answered() -> None:
    with served(script=as_told) as server:
        ask(server, {"calls": [["ping", {}]]}, tools=TOOLS)
        list(ask(server, {"content": "Hi"}, stream=True))
        httpx.post(server.url + "/v1/chat/completions", json={"messages": []})
        text = httpx.get(server.url + "/metrics").text
    told = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert told['octupus_requests_total{route="/v1/chat/completions",status="200"}'] == "2"
    assert told['octupus_requests_total{route="/v1/chat/completions",status="400"}'] == "1"
    assert told['octupus_calls_total{complete="yes"}'] == "1" and told["octupus_ready"] == "1"
    assert float(told["octupus_constraint_masks_total"]) > 3 and float(told["octupus_constraint_compiles_total"]) >= 1
    assert 0 < float(told["octupus_constraint_mask_seconds_total"]) < float(told["octupus_request_seconds_sum"])
    assert {"octupus_constraint_hits_total", "octupus_constraint_refusals_total"} <= told.keys()
    assert float(told["octupus_constraint_cached_bytes"]) > 0
    assert told["octupus_request_seconds_count"] == "3" == told['octupus_request_seconds_bucket{le="+Inf"}']
