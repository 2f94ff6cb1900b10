"""The routes: chat completions and responses, streamed or not; models, health, ready."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any
from urllib.parse import quote

from aiohttp import web

from octupus.errors import OctupusError
from octupus.serve.answers import Chunks, Completion, Identity, Writer, written
from octupus.serve.engines import EngineDied
from octupus.serve.errors import ApiError
from octupus.serve.openapi import describe
from octupus.serve.protocol import read_json, read_task
from octupus.serve.responses import ResponseWriter, in_our_words, to_chat
from octupus.serve.service import SERVICE, Service
from octupus.serve.stream import Finish, Item, merged

REQUEST_ID = web.RequestKey("request_id", str)
SSE = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def chat(request: web.Request) -> web.StreamResponse:
    """POST /v1/chat/completions"""
    return await _answered(request, lambda value: value, Chunks, Completion)


async def responses(request: web.Request) -> web.StreamResponse:
    """POST /v1/responses: without state, over the same stream."""
    try:
        return await _answered(request, to_chat, ResponseWriter, ResponseWriter)
    except ApiError as error:
        raise in_our_words(error) from error


async def _answered(
    request: web.Request,
    as_chat: Callable[[dict[str, Any]], dict[str, Any]],
    streamed: type[Writer],
    whole: type[Writer],
) -> web.StreamResponse:
    service = request.app[SERVICE]
    fingerprint = "fp_" + service.wire.fingerprint.removeprefix("sha256:")[:12]
    identity = Identity(secrets.token_hex(12), int(time.time()), service.settings.model, fingerprint)
    with service.working() as engine:
        deadline = asyncio.get_running_loop().time() + service.section.request_timeout_s
        async with _in_time(service, deadline):
            body = await _body(request)
            task = await service.apart(len(body), lambda: read_task(as_chat(read_json(body))))
            jobs = await service.jobs(task, identity.id, len(body))
        prompt_tokens = len(jobs[0].prompt_ids)
        service.metrics.count("prompt_tokens_total", prompt_tokens)
        ignored = ", ".join(quote(name, safe="")[:64] for name in task.ignored[:20])
        never = ", ".join(quote(name, safe="")[:64] for name in jobs[0].uncallable[:20])
        told = {"X-Octupus-Ignored": ignored, "X-Octupus-Uncallable": never}
        headers = {name: value for name, value in told.items() if value}
        async with aclosing(merged(engine, jobs)) as stream:
            made = streamed if task.request.stream else whole
            writer = made(identity, prompt_tokens, task, service.tokenizer.token_bytes)
            answer = _Answer(service, writer, stream, deadline)
            if not task.request.stream:
                return web.json_response(await answer.whole(), headers=headers, dumps=written)
            await answer.begin()  # what fails before the first token still gets an HTTP status
            response = web.StreamResponse(headers={**SSE, **headers, "X-Request-Id": request[REQUEST_ID]})
            with suppress(ConnectionResetError):  # the client is gone; leaving closes the stream and ends the work
                await response.prepare(request)
                await answer.write(response)
            return response


async def _body(request: web.Request) -> bytes:
    try:
        return await request.read()
    except web.RequestPayloadError as error:
        raise ApiError(f"the body cannot be read: {error}", code="invalid_body") from error


@asynccontextmanager
async def _in_time(service: Service, deadline: float) -> AsyncIterator[None]:
    """What a request does before its status is out, its upload included: it holds a place among those at work."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except (TimeoutError, asyncio.CancelledError) as error:
        raise _ended_by_us(service, error) from error


class _Answer:
    """One stream of items on its way to a client, within the time that a request has."""

    def __init__(
        self,
        service: Service,
        writer: Writer,
        stream: AsyncGenerator[tuple[int, list[Item]], None],
        deadline: float,
    ) -> None:
        self._service, self._writer, self._stream, self._deadline = service, writer, stream, deadline
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._first = b""

    async def begin(self) -> None:
        """Wait for the first items."""
        async with _in_time(self._service, self._deadline):
            self._first = self._take(*await anext(self._stream))
        self._service.metrics.time("first_token_seconds", self._loop.time() - self._began)

    async def whole(self) -> dict[str, Any]:
        """Drain the stream into one answer."""
        await self.begin()
        async with _in_time(self._service, self._deadline):
            async for choice, items in self._stream:
                self._take(choice, items)
        return self._writer.value()

    async def write(self, response: web.StreamResponse) -> None:
        """Write what comes as it comes; an error is an event, since the status is out."""
        try:
            async with asyncio.timeout_at(self._deadline):
                await response.write(self._first)
                async for choice, items in self._stream:
                    await response.write(self._take(choice, items))
            await response.write(self._writer.closing())
        except (OctupusError, TimeoutError, asyncio.CancelledError) as error:
            if isinstance(error, EngineDied):
                self._service.fail(str(error))
            ended = error if isinstance(error, OctupusError) else _ended_by_us(self._service, error)
            await response.write(self._writer.failed(as_api_error(ended)))
        await response.write_eof()

    def _take(self, choice: int, items: list[Item]) -> bytes:
        if type(last := items[-1]) is Finish:
            cut, metrics = int(last.incomplete is not None), self._service.metrics
            metrics.count("calls_total", last.calls - cut, complete="yes")
            metrics.count("calls_total", cut, complete="no")
        return self._writer.add(choice, items)


def _ended_by_us(service: Service, error: BaseException) -> BaseException:
    """A time-out or a drain's deadline as an error for the client; a cancellation by the client's leaving stays one."""
    if isinstance(error, TimeoutError):
        seconds = f"{service.section.request_timeout_s:g} s"
        return ApiError(f"not finished after {seconds}, the limit for one request", status=408, code="timeout")
    return ApiError("the server is shutting down", status=503, code="draining") if service.expired else error


def as_api_error(error: BaseException) -> ApiError:
    """Every error of ours as a client sees it.

    Raises:
        BaseException: what is none of ours, as it is.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EngineDied):
        return ApiError(str(error), status=503, code="engine_died")
    if isinstance(error, OctupusError):
        return ApiError(str(error)[:2000], status=400, code="request_failed")
    raise error


async def models(request: web.Request) -> web.Response:
    """GET /v1/models"""
    return web.json_response({"object": "list", "data": [_model(request.app[SERVICE])]})


async def model(request: web.Request) -> web.Response:
    """GET /v1/models/{model}"""
    request.app[SERVICE].check_name(request.match_info["model"])
    return web.json_response(_model(request.app[SERVICE]))


def _model(service: Service) -> dict[str, object]:
    found = {"id": service.settings.model, "object": "model", "created": service.created, "owned_by": "octupus"}
    return {**found, "max_model_len": service.section.max_model_len}


async def openapi(request: web.Request) -> web.Response:
    """GET /openapi.json"""
    return web.json_response(describe())


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics: Prometheus' text form."""
    service = request.app[SERVICE]
    now = {"requests_at_work": service.at_work, "ready": service.status == "ready"}
    text = service.metrics.text(service.constraint_figures(), **now)
    return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def health(request: web.Request) -> web.Response:
    """GET /health: the process is up and not broken."""
    service = request.app[SERVICE]
    body = {"status": service.status, "at_work": service.at_work}
    return web.json_response(body, status=503 if service.status == "failed" else 200)


async def ready(request: web.Request) -> web.Response:
    """GET /ready: the model is loaded and the canary has come back."""
    service = request.app[SERVICE]
    body = {"status": service.status, "model": service.settings.model, "wire": service.wire.fingerprint}
    if service.reason:
        body["reason"] = service.reason
    return web.json_response(body, status=200 if service.status == "ready" else 503)
