"""The server on a real socket, in a thread of the test's process, with the scripted engine and the real constraint."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import openai
from aiohttp import web

from octupus.config import ServeSection
from octupus.serve.app import build_app
from octupus.serve.engines import Engine
from octupus.serve.operate import listen
from octupus.serve.scripted import Script, ScriptedEngine
from octupus.serve.service import SERVICE, Service, Settings
from octupus.wire import Wire
from tests.support.tiny import tiny_wire


@dataclass
class Served:
    url: str
    service: Service
    loop: asyncio.AbstractEventLoop

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0, timeout=60)

    def call(self, work: Callable[[], Any]) -> Any:
        """Run ``work`` on the server's loop."""

        async def inside() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(inside(), self.loop).result(30)


@contextmanager
def served(
    make: Callable[[ServeSection], Engine] | None = None,
    *,
    script: Script | None = None,
    canary: bool = True,
    keys: tuple[str, ...] = (),
    wire: Wire | None = None,
    **section: Any,
) -> Iterator[Served]:
    """A ready server; ``section`` are fields of the recipe's serve section."""
    made = ServeSection(engine="scripted", host="127.0.0.1", port=0, **section)
    wire = wire or tiny_wire()
    settings = Settings(made, "tiny", canary=canary, keys=keys)
    engine = (lambda: make(made)) if make else (lambda: ScriptedEngine(None, wire, made, script))
    box: dict[str, Any] = {}
    up = threading.Event()

    async def main() -> None:
        app = build_app(engine, wire, wire.tokenizer, settings)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1)
        await runner.setup()
        listening = listen("127.0.0.1", 0)
        await web.SockSite(runner, listening).start()
        stop = asyncio.Event()
        service = app[SERVICE]
        box.update(loop=asyncio.get_running_loop(), stop=stop, service=service, port=listening.getsockname()[1])
        while service.status == "loading":
            await service.changed.wait()
        up.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert up.wait(60), "the server did not come up"
    try:
        yield Served(f"http://127.0.0.1:{box['port']}", box["service"], box["loop"])
    finally:
        box["loop"].call_soon_threadsafe(box["stop"].set)
        thread.join(30)
        assert not thread.is_alive()
