"""``python -m benchmarks.serve``: this server and ``vllm serve`` on the same tiny model, load alternating between them.

Ends with one JSON line. Ratios are ours over vLLM's, medians over alternations with a 95% interval (bootstrap). Equal
output: every answer has exactly ``TOKENS`` tokens, because the end of turn is biased away (plain) or because the schema
forces a string that is longer (tools: ``warm``, ``cold``). How it is made is each server's own affair: of ours, what a
call must begin with (six tokens) is prefilled, and a worker class of ours applies the masks. Requests offer 16 tools,
those of ``_few`` four. A string with ``minLength`` is slow to compile for xgrammar; ``_arrays`` forces an array of
strings instead, which is not. The model is laid out as Qwen2.5's instruct models are, so both servers read the same
prompts and write the same format.
``--part`` runs some of it: each part takes a minute or two on two cores. ``--front``: the front end alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parents[1]
TOKENS, REQUESTS, CONCURRENT, TOOL_SETS = 64, 96, 16, 16
FEW, MANY = 4, 16
"""Tools of a request."""
SPIN_S = 1.5
"""Between rounds: vLLM's processes, ours too, spin for a second after their last message."""


@dataclass
class Server:
    """A server process and where it answers."""

    name: str
    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()


def model(folder: Path, dialect: str) -> Path:
    """Two layers over Qwen's whole vocabulary, random weights: vLLM spends its time where a front end cannot hide.

    ``qwen``: laid out as Qwen2.5's instruct models are, which either server serves as it is. ``octupus``: as ours are.
    """
    from octupus.wire import Wire, write_wire
    from octupus.wire.dialect import OCTUPUS
    from tests.support.qwen import qwen_folder, qwen_instruct, qwen_octupus
    from tests.support.tiny_model import random_qwen2

    folder.mkdir()
    config = json.loads((qwen_folder() / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer = qwen_instruct("qwen2_5") if dialect == "qwen" else qwen_octupus()
    template = tokenizer.chat_template
    if template is None:
        wire = Wire(OCTUPUS, tokenizer)
        template = wire.chat_template
        write_wire(folder, wire)
    else:
        config["eos_token"] = "<|im_end|>"
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer.spec, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    random_qwen2(folder, rows=151_936, hidden=128, eos=tokenizer.eos_id)
    return folder


def start(name: str, command: list[str], folder: Path, port: int) -> Server:
    log = folder / f"{name}.log"
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TORCH_COMPILE_DISABLE": "1",
    }
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log.open("wb"), stderr=subprocess.STDOUT)
    return Server(name, process, f"http://127.0.0.1:{port}", log)


async def ready(session: aiohttp.ClientSession, server: Server, path: str) -> None:
    while True:
        if server.process.poll() is not None:
            raise SystemExit(f"{server.name} ended; see {server.log}")
        try:
            async with session.get(server.url + path) as reply:
                if reply.status == 200:
                    return
        except aiohttp.ClientError:
            pass  # it does not listen yet; one that has ended is seen above
        await asyncio.sleep(0.5)


SHORT: dict[str, Any] = {"type": "string", "maxLength": 20}
LONG: dict[str, Any] = {"type": "string", "minLength": 16 * TOKENS}  # Qwen's tokens have about four characters
VERBS = ("get", "list", "create", "update", "delete", "search", "send", "book")
ARRAY: dict[str, Any] = {"type": "array", "items": {"type": "string"}, "minItems": TOKENS}


def tool_set(seed: int, text: dict[str, Any], size: int) -> list[dict[str, Any]]:
    """Functions that no other seed has; the first argument of each is a ``text`` (LONG: past the output limit)."""
    rng = random.Random(seed)
    kinds = [{"type": "integer"}, {"type": "boolean"}, {"enum": ["red", "green", "blue"]}, {"type": "number"}]
    tools = []
    for i in range(size):
        names = [f"field_{rng.randrange(10**6)}" for _ in range(4)]
        properties = {names[0]: text} | {name: rng.choice(kinds) for name in names[1:]}
        schema = {"type": "object", "properties": properties, "required": names, "additionalProperties": False}
        name = f"{VERBS[i % len(VERBS)]}_{seed}_{i}"
        function = {"name": name, "description": "x", "parameters": schema, "strict": True}
        tools.append({"type": "function", "function": function})
    return tools


@dataclass
class Load:
    """What one round of load brought."""

    tokens_per_s: float
    ttft_p50_s: float
    front_ms: float
    """CPU milliseconds a token of the process that answers, its engine's processes left out."""


def cpu_s(pid: int) -> float:
    """What a process itself has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(session: aiohttp.ClientSession, server: Server, body: Callable[[int], dict[str, Any]]) -> Load:
    """``REQUESTS`` streams, ``CONCURRENT`` at a time; the tokens are counted by the server's own usage."""
    gate, firsts, tokens = asyncio.Semaphore(CONCURRENT), list[float](), 0

    async def one(i: int) -> None:
        nonlocal tokens
        async with gate:
            began, first = time.perf_counter(), None
            options = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": TOKENS}
            request = {"model": "tiny", "messages": [{"role": "user", "content": f"Hello {i}"}], **options, **body(i)}
            async with session.post(f"{server.url}/v1/chat/completions", json=request) as reply:
                if reply.status != 200:
                    raise SystemExit(f"{server.name}: {reply.status} {(await reply.text())[:500]}")
                async for line in reply.content:
                    if line.startswith(b"data: {"):
                        chunk = json.loads(line[6:])
                        first = first or time.perf_counter() - began
                        tokens += (chunk.get("usage") or {}).get("completion_tokens", 0)
            firsts.append(first or 0.0)

    began, used = time.perf_counter(), cpu_s(server.process.pid)
    await asyncio.gather(*(one(i) for i in range(REQUESTS)))
    seconds, used = time.perf_counter() - began, cpu_s(server.process.pid) - used
    if tokens != REQUESTS * TOKENS:
        raise SystemExit(f"{server.name}: {tokens} tokens, not {REQUESTS * TOKENS}: the work is not equal")
    return Load(tokens / seconds, statistics.median(firsts), 1000 * used / tokens)


async def legal_calls(session: aiohttp.ClientSession, server: Server, offset: int) -> dict[str, float]:
    """Calls on short schemas: complete legal ones a second, and what became of all requests."""
    import jsonschema

    gate, ends = asyncio.Semaphore(CONCURRENT), Counter[str]()

    async def one(i: int) -> None:
        tools = tool_set(offset + i % TOOL_SETS, SHORT, FEW)
        schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
        request = {"model": "tiny", "messages": [{"role": "user", "content": f"Hello {i}"}], "max_tokens": 160}
        request |= {"tools": tools, "tool_choice": "required"}
        async with gate, session.post(f"{server.url}/v1/chat/completions", json=request) as reply:
            value = await reply.json()
        if reply.status != 200:
            ends["refused"] += 1
            return
        choice = value["choices"][0]
        for call in choice["message"].get("tool_calls") or ():
            try:
                arguments = json.loads(call["function"]["arguments"])
                jsonschema.validate(arguments, schemas[call["function"]["name"]])
                ends["legal"] += 1
            except (ValueError, KeyError, jsonschema.ValidationError):
                ends["cut" if choice["finish_reason"] == "length" else "illegal"] += 1
        ends["answers without a call"] += not choice["message"].get("tool_calls")

    began = time.perf_counter()
    await asyncio.gather(*(one(i) for i in range(REQUESTS)))
    return {"legal_per_s": round(ends["legal"] / (time.perf_counter() - began), 2), **ends}


def interval(values: list[float]) -> tuple[float, float, float]:
    """Median and a 95% bootstrap interval of it."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(2000))
    return statistics.median(values), medians[50], medians[1949]


TOOLS: dict[str, tuple[int, dict[str, Any]]] = {
    "": (MANY, LONG),
    "_few": (FEW, LONG),
    "_arrays": (MANY, ARRAY),
    "_few_arrays": (FEW, ARRAY),
}
PARTS = ("plain", *(f"{kind}{tools}" for tools in TOOLS for kind in ("warm", "cold")), "calls")


async def compare(
    alternations: int, folder: Path, parts: Sequence[str] = PARTS, dialect: str = "qwen"
) -> dict[str, Any]:
    """Both servers up, rounds in alternation, ratios of neighbouring rounds."""
    from octupus.serve.operate import listen
    from octupus.tokenizer import load_tokenizer

    made = model(folder / "tiny", dialect)
    eos = load_tokenizer(made).eos_id
    ports = []
    for _ in range(2):
        with listen("127.0.0.1", 0) as held:
            ports.append(held.getsockname()[1])
    common = ["--max-model-len", "4096", "--host", "127.0.0.1", "--port"]
    engine = "engine_args={max_num_seqs: 32}"
    own = [sys.executable, "-m", "octupus.serve", "--model", str(made), *common, str(ports[0]), "--set", engine]
    own += ["--dialect", dialect]
    theirs = [str(Path(sys.executable).with_name("vllm")), "serve", str(made), "--served-model-name", "tiny"]
    theirs += [*common, str(ports[1]), "--max-num-seqs", "32", "--enforce-eager", "--disable-uvicorn-access-log"]
    theirs += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--disable-log-stats"]
    # As our server sets its engine on a CPU (octupus.serve.engine says why), so that front ends and masks are compared.
    theirs += ["--dtype", "float32", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "4096"]
    servers = [start("octupus", own, folder, ports[0]), start("vllm", theirs, folder, ports[1])]
    fresh = iter(range(10**6, 10**9))
    plain = {"logit_bias": {str(eos): -100}}

    def required(seed: Callable[[int], int], size: int, text: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
        return lambda i: {"tools": tool_set(seed(i), text, size), "tool_choice": "required"}

    kinds: dict[str, Callable[[int], dict[str, Any]]] = {"plain": lambda i: plain}
    for name, (size, text) in TOOLS.items():
        kinds["warm" + name] = required(lambda i: i % TOOL_SETS, size, text)
        kinds["cold" + name] = required(lambda i: next(fresh), size, text)
    rounds: dict[str, list[tuple[Load, Load]]] = {kind: [] for kind in kinds if kind in parts}
    calls: dict[str, Any] = {}
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await ready(session, servers[0], "/ready")
            await ready(session, servers[1], "/health")
            for kind in rounds:
                for turn in range(-1, alternations):  # the first one warms up and is not counted
                    order = servers if turn % 2 else servers[::-1]
                    by_name = {}
                    for server in order:
                        await asyncio.sleep(SPIN_S)
                        by_name[server.name] = await load(session, server, kinds[kind])
                    if turn >= 0:
                        rounds[kind].append((by_name["octupus"], by_name["vllm"]))
                        ours, other = rounds[kind][-1]
                        first = f"{ours.ttft_p50_s * 1000:.0f} / {other.ttft_p50_s * 1000:.0f} ms"
                        speed = f"{ours.tokens_per_s:.0f} / {other.tokens_per_s:.0f} tok/s"
                        print(f"{kind} {turn}: {speed}, first token {first}", flush=True)
            if "calls" in parts:
                calls = {"calls": {server.name: await legal_calls(session, server, 0) for server in servers}}
    finally:
        for server in servers:
            server.stop()
    return figures(rounds) | calls


def figures(rounds: dict[str, list[tuple[Load, Load]]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind, pairs in rounds.items():
        median, low, high = interval([ours.tokens_per_s / other.tokens_per_s for ours, other in pairs])
        name = "tokens_per_s_ratio" if kind == "plain" else f"tools_{kind}_ratio"
        found |= {name: round(median, 3), f"{name}_95": [round(low, 3), round(high, 3)]}
        sides = list(zip(*pairs, strict=True))
        found[f"{kind}_tokens_per_s"] = [round(statistics.median(s.tokens_per_s for s in side)) for side in sides]
        front = [round(statistics.median(s.front_ms for s in side), 3) for side in sides]
        found[f"{kind}_front_cpu_ms_per_token"] = front
        found[f"{kind}_ttft_p50_ms"] = [round(1000 * statistics.median(s.ttft_p50_s for s in side)) for side in sides]
        if kind == "plain":
            median, low, high = interval([ours.ttft_p50_s / other.ttft_p50_s for ours, other in pairs])
            found |= {"ttft_p50_ratio": round(median, 3), "ttft_p50_ratio_95": [round(low, 3), round(high, 3)]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alternations", type=int, default=8)
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part; may be given several times")
    parser.add_argument("--dialect", choices=("qwen", "octupus"), default="qwen", help="of the model that both serve")
    parser.add_argument("--front", action="store_true", help="only the front end, on an engine that costs nothing")
    arguments = parser.parse_args()
    if arguments.front:
        from benchmarks.serve_front import measure

        print(json.dumps(measure()))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a benchmark that is told to end ends its servers
    with tempfile.TemporaryDirectory(prefix="octupus-serve-") as folder:
        parts = arguments.part or PARTS
        print(json.dumps(asyncio.run(compare(arguments.alternations, Path(folder), parts, arguments.dialect))))


if __name__ == "__main__":
    main()
