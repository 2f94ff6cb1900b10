"""The HTTP application, and :func:`run`, which serves a checkpoint until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from aiohttp import web

from octupus.config import Recipe
from octupus.errors import OctupusError
from octupus.runs import Run, Stage
from octupus.serve import routes
from octupus.serve.answers import written
from octupus.serve.engines import Engine, EngineFactory
from octupus.serve.errors import ApiError
from octupus.serve.operate import Publication, serve
from octupus.serve.routes import REQUEST_ID, as_api_error
from octupus.serve.service import SERVICE, Service, Settings
from octupus.wire import Wire
from octupus.wire.tokenizer import Tokenizer

ACCESS = logging.getLogger("octupus.serve.access")
OPEN_PATHS = ("/health", "/ready", "/openapi.json")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(engine: Engine | EngineFactory, wire: Wire, tokenizer: Tokenizer, settings: Settings) -> web.Application:
    """The application around an engine, or around a function that makes one: called in a thread, 503 until then."""
    factory: EngineFactory = engine if callable(engine) else lambda: engine
    limit = int(settings.section.max_body_mb * 2**20)
    app = web.Application(middlewares=[_outer, _authorised], client_max_size=limit)

    async def life(app: web.Application) -> AsyncIterator[None]:
        service = app[SERVICE] = Service(factory, wire, tokenizer, settings)
        starting = asyncio.create_task(service.start())
        yield
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        await service.stop()

    app.cleanup_ctx.append(life)
    for prefix in ("", "/v1"):
        app.router.add_post(f"{prefix}/chat/completions", routes.chat)
        app.router.add_post(f"{prefix}/responses", routes.responses)
        app.router.add_get(f"{prefix}/models", routes.models)
        app.router.add_get(f"{prefix}/models/{{model:.+}}", routes.model)
    app.router.add_get("/openapi.json", routes.openapi)
    app.router.add_get("/metrics", routes.metrics)
    app.router.add_get("/health", routes.health)
    app.router.add_get("/ready", routes.ready)
    return app


@web.middleware
async def _outer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A request id on everything, OpenAI's shape on every error, one access line a request."""
    given = request.headers.get("X-Request-Id", "")
    usable = given.isascii() and given.isprintable() and 0 < len(given) <= 128
    request[REQUEST_ID] = given if usable else secrets.token_hex(8)
    began, status = time.monotonic(), 499  # nginx's word for: the client left first
    metrics = request.app[SERVICE].metrics
    try:
        try:
            response = await handler(request)
        except (OctupusError, web.HTTPException) as error:
            refused = _http_error(error, request) if isinstance(error, web.HTTPException) else as_api_error(error)
            metrics.count("refusals_total", code=refused.code or "none")
            response = _refusal(refused)
        except Exception:  # a defect of ours: the client gets its shape, the log the traceback
            ACCESS.exception("request %s failed", request[REQUEST_ID])
            why = f"the server made a mistake; its log has more under {request[REQUEST_ID]}"
            response = _refusal(ApiError(why, status=500, code="internal_error"))
        status = response.status
        if not response.prepared:
            response.headers["X-Request-Id"] = request[REQUEST_ID]
        return response
    finally:
        seconds = time.monotonic() - began
        line = {"id": request[REQUEST_ID], "method": request.method, "path": request.path, "status": status}
        ACCESS.info(json.dumps({**line, "ms": round(seconds * 1000)}))
        route = request.match_info.route.resource
        metrics.count("requests_total", route=route.canonical if route else "none", status=str(status))
        if request.method == "POST":
            metrics.time("request_seconds", seconds)


def _refusal(error: ApiError) -> web.Response:
    body, headers = written(error.body()), error.headers()
    return web.Response(text=body, status=error.status, headers=headers, content_type="application/json")


def _http_error(error: web.HTTPException, request: web.Request) -> ApiError:
    messages = {
        404: f"no route {request.path}; there are /v1/chat/completions, /v1/responses, /v1/models, /health and /ready",
        413: "the body is larger than serve.max_body_mb allows",
    }
    message = messages.get(error.status, f"{error.reason} ({request.method} {request.path})")
    return ApiError(message, status=error.status, code=error.reason.lower().replace(" ", "_"))


@web.middleware
async def _authorised(request: web.Request, handler: Handler) -> web.StreamResponse:
    keys = request.app[SERVICE].settings.keys
    if keys and request.path not in OPEN_PATHS:
        scheme, _, word = request.headers.get("Authorization", "").partition(" ")
        given = word.strip().encode(errors="surrogateescape") if scheme.lower() == "bearer" else b""
        if not any([hmac.compare_digest(given, key.encode()) for key in keys]):  # a list: every key is compared
            raise ApiError("no valid API key; send Authorization: Bearer KEY", status=401, code="invalid_api_key")
    return await handler(request)


def run(recipe: Recipe, run: Run, model_dir: Path, replica: str = "0", stage: Stage | None = None) -> int:
    """Serve a run's checkpoint until SIGTERM, SIGINT or SIGUSR2; the endpoint is published while the server is ready.

    Args:
        stage: whose progress the answered requests are.

    Returns:
        The number of the signal that ended it; 0 where it ended by itself (nobody asked for long).

    Raises:
        ConfigError: the port is in use, a file is missing. JobError: the engine did not start, or died.
    """
    wire, publication = recipe.wire, Publication(run, replica, stage)
    return serve(build_app, recipe.serve, model_dir, wire.dialect, wire.system, recipe.name, publication)
