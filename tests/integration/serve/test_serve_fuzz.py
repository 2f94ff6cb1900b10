"""No input makes a 500, none hangs, and memory comes back: requests from the server's own description; BFCL's, broken.

The scripted engine under the real constraint; a share on the real vLLM.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import aiohttp
import httpx
import hypothesis
import pytest
import schemathesis

from tests.support.launched import Launched
from tests.support.mutated import bodies
from tests.support.served import Served, served
from tests.support.tiny import tiny_folder
from tests.support.tiny_model import tiny_model

LIMIT_S = 60


def judged(status: int, data: bytes) -> str:
    """What is wrong with an answer to anything at all."""
    if status not in (200, 400, 404, 413, 422):
        return f"status {status}: {data[:300]!r}"
    if status != 200:
        error = json.loads(data)["error"]
        return "" if error["message"] and error.keys() == {"message", "type", "param", "code"} else f"shape {error}"
    if not data.startswith((b"data: ", b"event: ")):
        return "" if json.loads(data)["object"] in ("chat.completion", "response") else f"object {data[:100]!r}"
    if not data.rstrip().endswith(b"[DONE]") and b"event: response." not in data:
        return "a stream without an end"
    failed = data.startswith(b"data: ") and any(b'"type":"server_error"' in line for line in data.splitlines())
    return "an error of ours in a stream" if failed else ""


async def fuzz(url: str, requests: Iterable[tuple[str, bytes]], at_once: int = 16) -> tuple[Counter[int], list[str]]:
    """Statuses, and what was wrong with its request."""
    statuses: Counter[int] = Counter()
    wrong: list[str] = []
    left = iter(requests)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIMIT_S)) as session:

        async def ask() -> None:
            for path, body in left:
                headers = {"Content-Type": "application/json"}
                try:
                    async with session.post(url + path, data=body, headers=headers) as reply:
                        said, status = await reply.read(), reply.status
                except (TimeoutError, aiohttp.ClientError) as error:
                    said, status = repr(error).encode(), 0
                statuses[status] += 1
                if problem := judged(status, said):
                    wrong.append(f"{problem} for {path} {body[:2000]!r}")

        await asyncio.gather(*(ask() for _ in range(at_once)))
    return statuses, wrong


def resident_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(max_model_len=8192, default_max_tokens=24, engine_args={"patience": 0.7}) as up:
        yield up


def from_description(server: Served, count: int) -> Counter[int]:
    """``count`` requests that schemathesis makes from /openapi.json, legal ones and others."""
    schema = schemathesis.openapi.from_dict(httpx.get(server.url + "/openapi.json").json())
    statuses: Counter[int] = Counter()
    for path in ("/v1/chat/completions", "/v1/responses"):
        operation = schema[path]["POST"]
        modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
        for mode in modes:

            @hypothesis.settings(
                max_examples=count // 4,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: schemathesis.Case) -> None:
                body = case.body if isinstance(case.body, dict | list | str | int | float | bool) else None
                data = json.dumps(body).encode()
                reply = httpx.post(server.url + case.path, content=data, timeout=LIMIT_S)
                statuses[reply.status_code] += 1
                assert not judged(reply.status_code, reply.content), data

            ask()
    return statuses


def test_requests_made_from_the_description(server: Served) -> None:
    statuses = from_description(server, 20)
    assert statuses[200] + statuses[400] >= 20 and server.service.at_work == 0


async def test_bfcls_requests_broken(server: Served) -> None:
    statuses, wrong = await fuzz(server.url, bodies(400))
    assert not wrong, wrong[:3]
    assert statuses[200] >= 40 and statuses[400] >= 100 and server.service.at_work == 0


@pytest.mark.full
def test_many_made_from_the_description(server: Served) -> None:
    statuses = from_description(server, 1200)
    assert sum(statuses.values()) >= 1000 and server.service.at_work == 0
    assert statuses[200] >= 100 and statuses[400] >= 100


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Launched]:
    """The scripted engine as a process of its own, whose memory is nobody else's."""
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_folder(), folder)
    (folder / "config.json").write_text("{}")
    limits = ("--max-model-len", "8192", "--default-max-tokens", "24", "--engine", "scripted")
    with Launched("--model", folder, *limits) as up:
        yield up


async def held_after(launched: Launched, seeds: Iterable[int]) -> tuple[Counter[int], list[float]]:
    """Statuses of 2,000 broken requests a seed, and resident MB after each 2,000."""
    url, total, held = launched.ready(), Counter[int](), list[float]()
    for seed in seeds:
        statuses, wrong = await fuzz(url, bodies(2000, seed))
        assert not wrong, wrong[:3]
        total += statuses
        held.append(resident_mb(launched.process.pid))
    print(f"statuses {total}, resident MB {[round(mb) for mb in held]}")
    return total, held


@pytest.mark.full
async def test_many_of_bfcls_broken(launched: Launched) -> None:
    statuses, _ = await held_after(launched, range(10))
    assert sum(statuses.values()) == 20_000


@pytest.mark.full
async def test_memory_comes_back(launched: Launched) -> None:
    """Twice 20,000 requests, the same 2,000 schemas and texts all along: what grows then would grow for ever."""
    statuses, held = await held_after(launched, [0] * 20)
    assert sum(statuses.values()) == 40_000 and held[19] <= 1.1 * held[9]


@pytest.mark.full
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (make setup)")
async def test_a_share_on_the_real_engine(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny")
    with Launched("--model", model, "--max-model-len", "8192", "--default-max-tokens", "24") as launched:
        statuses, wrong = await fuzz(launched.ready(), bodies(500, 99))
        assert not wrong, wrong[:3]
        assert statuses[200] >= 50 and httpx.get(launched.url + "/ready").status_code == 200
        launched.process.terminate()
        assert launched.ended() == 0
