"""Many streams at once, and a signal in the middle of them: every one ends in a way that its client can read."""

from __future__ import annotations

import asyncio
import json
import resource
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.launched import Launched, marked
from tests.support.tiny import tiny_folder

SIZES = [(60, 8, 0.05), pytest.param(1000, 120, 0.5, marks=pytest.mark.full)]
"""Streams, tokens of each, seconds a token: the full ones last a minute."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_folder(), folder)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture(autouse=True)
def _many_sockets() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Client:
    """Streams that count how they ended."""

    def __init__(self, url: str) -> None:
        self.url, self.ends, self.tokens, self.begun = url, Counter[str](), 0, 0

    async def one(self, session: aiohttp.ClientSession) -> None:
        body = {"messages": [{"role": "user", "content": "x"}], "stream": True, "tool_choice": "none"}
        body |= {"stream_options": {"include_usage": True}}
        last = ""
        try:
            async with session.post(self.url + "/v1/chat/completions", json=body) as reply:
                if reply.status != 200:
                    self.ends[f"{reply.status} {(await reply.json())['error']['code']}"] += 1
                    return
                self.begun += 1
                async for line in reply.content:
                    if line.startswith(b"data: {"):
                        last = line.decode()[6:]
                    elif line.startswith(b"data: [DONE]"):
                        value = json.loads(last)
                        self.ends[value["error"]["code"] if "error" in value else "finished"] += 1
                        self.tokens += value["usage"]["completion_tokens"] if "usage" in value else 0
                        return
            self.ends["cut off"] += 1
        except aiohttp.ClientError as error:
            self.ends[type(error).__name__] += 1

    def all(self, session: aiohttp.ClientSession, count: int) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self.one(session)) for _ in range(count)]


@pytest.mark.parametrize(("streams", "tokens", "delay"), SIZES)
async def test_many_streams_at_once_and_a_signal_among_them(
    model: Path, streams: int, tokens: int, delay: float
) -> None:
    slow = ("--set", f"engine_args={{delay_s: {delay}, patience: 1.0}}", "--default-max-tokens", str(tokens))
    room = ("--set", f"max_concurrency={streams}", "--set", "drain_s=3", "--engine", "scripted")
    mark = uuid.uuid4().hex
    with Launched("--model", model, *slow, *room, OCTUPUS_TEST=mark) as launched:
        url = launched.ready()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=500)) as session:
            held = Client(url)
            began = time.monotonic()
            await asyncio.gather(*held.all(session, streams))
            took = time.monotonic() - began
            assert held.ends == {"finished": streams} and held.tokens == streams * tokens

            ended = Client(url)
            running = ended.all(session, streams // 2)
            while ended.begun < streams // 4:
                await asyncio.sleep(0.01)
            launched.process.terminate()
            while "draining" not in launched.said:
                await asyncio.sleep(0.01)
            late = Client(url)
            await asyncio.gather(*late.all(session, 10))
            await asyncio.gather(*running)
        print(f"{streams} streams of {tokens} tokens in {took:.1f} s; after the signal {dict(ended.ends)}")
        assert took >= tokens * delay and late.ends == {"503 draining": 10}
        assert set(ended.ends) <= {"finished", "draining", "503 draining"} and sum(ended.ends.values()) == streams // 2
        assert await asyncio.to_thread(launched.ended) == 0
    assert marked("OCTUPUS_TEST", mark) == []
