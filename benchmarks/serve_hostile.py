"""``python -m benchmarks.serve_hostile``: what hostile schemas do to everybody else's latency.

Eight clients ask for calls in a loop; in every second round a ninth sends hostile schemas, a few a second. The scripted
engine under the real constraint, in ONE process with the front end: with vLLM the masks have a process of their own.
Ends with one JSON line; ``p99_ratio`` is the median over rounds, hostile over quiet, with a 95% interval.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.serve import FEW, SHORT, interval, tool_set

CLIENTS, SECONDS, EVERY_S = 8, 8.0, 0.25


def hostile() -> list[dict[str, Any]]:
    """Schemas that cost whoever believes them: deep, wide, recursive, ambiguous, huge, unsatisfiable."""
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(60):
        deep = {"type": "object", "properties": {"x": deep}, "required": ["x"]}
    doubled: dict[str, Any] = {"type": "integer"}
    for _ in range(10):
        doubled = {"anyOf": [doubled, {"allOf": [doubled, {"minimum": 3}]}]}
    many = {f"p{i}": {"enum": [f"{i} {j}" for j in range(40)]} for i in range(250)}
    return [
        deep,
        {"properties": {"x": doubled}},
        {"properties": many, "required": list(many)},
        {"properties": {"x": {"enum": [f"value {i}" for i in range(20_000)]}}},
        {"properties": {"x": {"type": "string", "pattern": "^(a+)+$"}}},
        {"properties": {"x": {"type": "string", "pattern": "(x{1,500}){1,500}"}}},
        {"properties": {"x": {"type": "string", "minLength": 10**8}}, "required": ["x"]},
        {"properties": {"x": {"type": "array", "minItems": 10**6, "items": {}}}, "required": ["x"]},
        {"properties": {"x": {"$ref": "#"}}, "required": ["x"]},
        {"$defs": {f"d{i}": {"oneOf": [{"$ref": f"#/$defs/d{(i + k) % 40}"} for k in (1, 2, 3)]} for i in range(40)}}
        | {"properties": {"x": {"$ref": "#/$defs/d0"}}},
    ]


def body(tools: list[dict[str, Any]]) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hello"}]
    return {"messages": messages, "tools": tools, "tool_choice": "required", "max_tokens": 24}


async def round_of(session: aiohttp.ClientSession, url: str, enemies: bool, ends: Counter[str]) -> float:
    """p99 in seconds of the ordinary requests of one round."""
    over, taken = time.perf_counter() + SECONDS, list[float]()

    async def good(i: int) -> None:
        while (began := time.perf_counter()) < over:
            async with session.post(url, json=body(tool_set(i, SHORT, FEW))) as reply:
                await reply.read()
                ends[f"ordinary {reply.status}"] += 1
            taken.append(time.perf_counter() - began)

    async def enemy() -> None:
        schemas = hostile()
        number = 0
        while time.perf_counter() < over:
            # Never twice the same, or the plans would be known.
            schema = {"type": "object", **schemas[number % len(schemas)], "description": str(time.time_ns())}
            function = {"name": "f", "parameters": schema}
            async with session.post(url, json=body([{"type": "function", "function": function}])) as reply:
                await reply.read()
                ends[f"hostile {reply.status}"] += 1
            number += 1
            await asyncio.sleep(EVERY_S)

    await asyncio.gather(*(good(i) for i in range(CLIENTS)), *([enemy()] if enemies else []))
    return sorted(taken)[int(len(taken) * 0.99)]


async def measure(url: str, rounds: int) -> dict[str, Any]:
    ends, pairs = Counter[str](), list[tuple[float, float]]()
    async with aiohttp.ClientSession() as session:
        await round_of(session, url, True, Counter())
        for _ in range(rounds):
            quiet = await round_of(session, url, False, ends)
            pairs.append((await round_of(session, url, True, ends), quiet))
    median, low, high = interval([one / other for one, other in pairs])
    quiet_ms = round(1000 * sorted(quiet for _, quiet in pairs)[rounds // 2], 1)
    found = {"p99_ratio": round(median, 2), "p99_ratio_95": [round(low, 2), round(high, 2)], "quiet_p99_ms": quiet_ms}
    return found | {"answers": dict(ends)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    from tests.support.launched import Launched
    from tests.support.tiny import tiny_folder

    with tempfile.TemporaryDirectory(prefix="octupus-serve-") as scratch:
        model = Path(scratch) / "tiny"
        shutil.copytree(tiny_folder(), model)
        (model / "config.json").write_text("{}")
        with Launched("--model", model, "--engine", "scripted", "--max-model-len", "100000") as launched:
            url = launched.ready() + "/v1/chat/completions"
            print(json.dumps(asyncio.run(measure(url, arguments.rounds))))
            launched.process.terminate()
            launched.ended()


if __name__ == "__main__":
    main()
