"""The front end alone: 256 streams, one token = one chunk, from an engine that costs nothing.

Everything that is ours between an engine's token and the socket is in the figure: parser, validation, chunk, aiohttp.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator
from typing import Any

import uvloop
from aiohttp import web

STREAMS, TOKENS = 256, 200
CLIENT = """
import asyncio, sys, time
async def one(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    body = b'{"messages":[{"role":"user","content":"x"}],"stream":true,"max_tokens":%d}'
    writer.write(b"POST /v1/chat/completions HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\nContent-Length: %%d\\r\\n\\r\\n" %% len(body))
    writer.write(body)
    found = 0
    while data := await reader.read(1 << 20):
        found += data.count(b"data: {")
    return found
async def main():
    began = time.perf_counter()
    found = sum(await asyncio.gather(*(one(int(sys.argv[1])) for _ in range(%d))))
    print(found, time.perf_counter() - began)
asyncio.run(main())
"""  # noqa: E501


class Source:
    """Tokens from nowhere."""

    def __init__(self, content: int, end: int, text: list[int]) -> None:
        self._content, self._end, self._text = content, end, text

    async def generate(self, *rest: Any) -> AsyncGenerator[tuple[list[int], str | None], None]:
        yield [self._content], None
        for i in range(rest[-1].max_tokens - 2):
            await asyncio.sleep(0)
            yield [self._text[i % len(self._text)]], None
        yield [self._end], "stop"

    async def abort(self, request_id: str) -> None: ...

    async def close(self) -> None: ...


async def served(app: web.Application, path: str) -> dict[str, float]:
    """CPU seconds of this process and wall seconds for one run of the client."""
    from octupus.serve.operate import listen

    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    listening = listen("127.0.0.1", 0)
    await web.SockSite(runner, listening).start()
    await asyncio.sleep(0.5)
    code = (CLIENT % (TOKENS, STREAMS)).replace("/v1/chat/completions", path)
    before = time.process_time()
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(listening.getsockname()[1]), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await client.communicate()
    used = time.process_time() - before
    await runner.cleanup()
    chunks, wall = said.split()
    return {"per_cpu_s": int(chunks) / used, "per_s": int(chunks) / float(wall)}


async def ceiling(request: web.Request) -> web.StreamResponse:
    """What aiohttp and the client can do at most: ready-made chunks."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    chunk = b"data: {" + b"x" * 240 + b"}\n\n"
    for _ in range(TOKENS):
        await asyncio.sleep(0)
        await response.write(chunk)
    await response.write_eof()
    return response


def measure() -> dict[str, Any]:
    """Median of three, ours and the ceiling in turn."""
    from octupus.config import ServeSection
    from octupus.serve.app import build_app
    from octupus.serve.service import Settings
    from tests.support.tiny import tiny_wire

    wire = tiny_wire()
    text = wire.tokenizer.encode(" the quick brown fox jumps over the lazy dog")
    content = wire.frame.content
    assert content is not None
    section = ServeSection(engine="benchmarks.serve_front:Source", max_concurrency=1000, max_model_len=4096)
    ours, top = [], []
    for _ in range(3):
        app = build_app(Source(content, wire.end_id, text), wire, wire.tokenizer, Settings(section, "tiny", False))
        ours.append(uvloop.run(served(app, "/v1/chat/completions")))
        bare = web.Application()
        bare.router.add_post("/bare", ceiling)
        top.append(uvloop.run(served(bare, "/bare")))

    def middle(found: list[dict[str, float]], name: str) -> int:
        return round(sorted(one[name] for one in found)[1])

    return {
        "frontend_tokens_per_s": middle(ours, "per_s"),
        "frontend_tokens_per_cpu_s": middle(ours, "per_cpu_s"),
        "ceiling_chunks_per_s": middle(top, "per_s"),
        "ceiling_chunks_per_cpu_s": middle(top, "per_cpu_s"),
        "limited_by": "one socket send a token (half of the server's CPU time), and the client's core",
    }
