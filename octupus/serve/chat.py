"""The routes: chat completions, streamed or not, models, health, ready."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from urllib.parse import quote

from aiohttp import web

from octupus.errors import OctupusError
from octupus.serve.answers import DONE, Chunks, Completion, Identity, event, written
from octupus.serve.engines import EngineDied
from octupus.serve.errors import ApiError
from octupus.serve.protocol import read_json, read_task
from octupus.serve.service import SERVICE, Service
from octupus.serve.stream import Item, merged

REQUEST_ID = web.RequestKey("request_id", str)
Stream = AsyncGenerator[tuple[int, list[Item]], None]


async def chat(request: web.Request) -> web.StreamResponse:
    """POST /v1/chat/completions"""
    service = request.app[SERVICE]
    with service.working() as engine:
        body = await request.read()
        task = read_task(read_json(body))
        identity = Identity(
            id=f"chatcmpl-{secrets.token_hex(12)}",
            created=int(time.time()),
            model=service.settings.model,
            fingerprint="fp_" + service.wire.fingerprint.removeprefix("sha256:")[:12],
        )
        jobs = await service.jobs(task, identity.id, len(body))
        ignored = ", ".join(quote(name, safe="")[:64] for name in task.ignored[:20])
        headers = {"X-Octupus-Ignored": ignored} if ignored else {}
        prompt_tokens = len(jobs[0].prompt_ids)
        completion = Completion(identity, task.n, service.tokenizer.token_bytes)
        deadline = asyncio.get_running_loop().time() + service.section.request_timeout_s
        async with aclosing(merged(engine, jobs)) as stream:
            try:
                async with asyncio.timeout_at(deadline):
                    first = await anext(stream)  # what fails before the first token still gets an HTTP status
                    if not task.request.stream:
                        completion.add(*first)
                        async for choice, items in stream:
                            completion.add(choice, items)
            except (TimeoutError, asyncio.CancelledError) as error:
                raise _ended_by_us(service, error) from error
            if task.request.stream:
                chunks = Chunks(identity, task.include_usage, service.tokenizer.token_bytes)
                response = await _opened(request, headers)
                await _streamed(
                    response, service, chunks, first, stream, deadline, prompt_tokens if task.include_usage else None
                )
                return response
        return web.json_response(completion.value(prompt_tokens), headers=headers, dumps=written)


async def _opened(request: web.Request, headers: Mapping[str, str]) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={
            **headers,
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
            "X-Request-Id": request[REQUEST_ID],
        }
    )
    await response.prepare(request)
    return response


async def _streamed(
    response: web.StreamResponse,
    service: Service,
    chunks: Chunks,
    first: tuple[int, list[Item]],
    stream: Stream,
    deadline: float,
    prompt_tokens: int | None,
) -> None:
    """Write chunks as they come; an error after the first byte is an event, since the status is out."""
    try:
        async with asyncio.timeout_at(deadline):
            await response.write(chunks.encode(*first))
            async for choice, items in stream:
                await response.write(chunks.encode(choice, items))
        if prompt_tokens is not None:
            await response.write(chunks.usage(prompt_tokens))
    except ConnectionResetError:
        return  # the client is gone; leaving closes the stream and aborts the engine's work
    except OctupusError as error:
        if isinstance(error, EngineDied):
            service.fail(str(error))
        await response.write(event(as_api_error(error).body()))
    except (TimeoutError, asyncio.CancelledError) as error:
        await response.write(event(as_api_error(_ended_by_us(service, error)).body()))
    await response.write(DONE)
    await response.write_eof()


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
        return ApiError(str(error), status=400, code="request_failed")
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
