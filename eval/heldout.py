"""Exact-call accuracy on conversations that were never trained on: the honest figure for a small model.

Every assistant turn of ``data/heldout.jsonl`` is asked for with the true turns before it. Exact: the same calls, names
and arguments equal as JSON, in any order. Where no call is wanted, any call is wrong.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp

from eval.checker import Tally, judge
from eval.endpoint import Server, identity, wait_for
from eval.weights import wilson
from octupus.config import Recipe
from octupus.errors import DataError, OctupusError
from octupus.runs import Reporter, Run, publish_bytes, publish_json, read_json
from octupus.wire.messages import Conversation, Message

CONCURRENCY = 16
MAX_TOKENS = 256


@dataclass(frozen=True)
class Item:
    """One assistant turn to be asked for."""

    id: str
    split: str
    kind: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...]
    wanted: Message


def run(recipe: Recipe, run: Run, label: Literal["before", "after"]) -> dict[str, Any]:
    """Ask the run's endpoint and publish ``heldout/<label>.json`` and ``heldout/calls-<label>.jsonl``.

    Raises:
        DataError: a held-out row is no conversation. JobError: no endpoint came up, or it died.
    """
    source = run.path / "data" / "heldout.jsonl"
    stage = run.stage("heldout")
    target = stage.path / f"{label}.json"
    server = wait_for(run, recipe.serve, "baseline" if label == "before" else "serve")
    items = list(read_items(source, recipe.bfcl.heldout))
    asked = hashlib.sha256(source.read_bytes() + f"{recipe.bfcl.heldout} {MAX_TOKENS}".encode()).hexdigest()[:16]
    subject = {"subject": identity(server), "asked": asked}
    known = read_json(target)
    if known is None or {key: known[key] for key in subject} != subject:
        print(f"heldout {label}: {len(items)} turns asked of {server.endpoint.model}", flush=True)
        with stage.reporting(len(items), "turns") as reporter:
            rows = asyncio.run(_ask_all(server, items, reporter))
        publish_bytes(
            stage.path / f"calls-{label}.jsonl",
            "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode(),
        )
        known = {"format_version": 1, "label": label, **subject, "served": server.endpoint.model, **summarise(rows)}
        publish_json(target, known)
    return {"scores": f"heldout/{label}.json", **{key: known[key] for key in ("turns", "exact", "no_call", "errors")}}


def read_items(path: Path, limit: int | None) -> Iterator[Item]:
    """The first ``limit`` conversations' assistant turns.

    Raises:
        DataError: no such file, or a row that is no conversation with ``split`` and ``kind``.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise DataError("no held-out conversations; build them with: make data", source=str(path)) from error
    for number, line in enumerate(lines[:limit]):
        try:
            row = json.loads(line)
            split, kind = row["split"], row["kind"]
            conversation = Conversation.model_validate({"messages": row["messages"], "tools": row["tools"]})
        except (ValueError, KeyError) as error:
            raise DataError(f"not a held-out conversation: {error}", source=str(path), row=number) from error
        for at, message in enumerate(conversation.messages):
            if message.role == "assistant":
                tools = tuple(tool.raw for tool in conversation.tools)
                yield Item(f"{number}:{at}", split, kind, conversation.messages[:at], tools, message)


async def _ask_all(server: Server, items: Sequence[Item], reporter: Reporter) -> list[dict[str, Any]]:
    gate, done = asyncio.Semaphore(CONCURRENCY), 0
    timeout = aiohttp.ClientTimeout(total=600)
    headers = {"Authorization": f"Bearer {server.api_key}"}
    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:

        async def one(item: Item) -> dict[str, Any]:
            nonlocal done
            async with gate:
                row = await _ask(session, server, item)
            done += 1
            reporter.update(done)
            return row

        async def watch() -> None:
            while True:
                await asyncio.sleep(2)
                await asyncio.to_thread(server.check)

        async def everything() -> list[dict[str, Any]]:
            return await asyncio.gather(*(one(item) for item in items))

        watcher: asyncio.Task[Any] = asyncio.create_task(watch())
        answers: asyncio.Task[Any] = asyncio.create_task(everything())
        await asyncio.wait([watcher, answers], return_when=asyncio.FIRST_COMPLETED)
        if not answers.done():
            answers.cancel()
            await watcher  # raises: the server died
        watcher.cancel()
        rows: list[dict[str, Any]] = answers.result()
    if any("error" in row for row in rows):
        server.check()
        server.check()
    return rows


async def _ask(session: aiohttp.ClientSession, server: Server, item: Item) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": server.endpoint.model,
        "messages": [openai_message(m) for m in item.messages],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
    }
    if item.tools:
        body |= {"tools": item.tools, "tool_choice": "auto"}
    row: dict[str, Any] = {
        "id": item.id,
        "split": item.split,
        "kind": item.kind,
        "messages": body["messages"],
        "tools": item.tools,
        "wanted": openai_message(item.wanted),
    }
    began = time.monotonic()
    try:
        async with session.post(f"{server.base_url}/chat/completions", json=body) as response:
            text = await response.text()
            if response.status != 200:
                return row | {"error": f"HTTP {response.status}: {text[:300]}"}
            choice = json.loads(text)["choices"][0]
            message = choice["message"]
            calls = [
                {**c["function"], "incomplete": c.get("incomplete", False)} for c in message.get("tool_calls") or ()
            ]
    except (aiohttp.ClientError, TimeoutError, OctupusError, ValueError, LookupError, TypeError) as error:
        return row | {"error": f"{type(error).__name__}: {error}"}
    return row | {
        "calls": calls,
        "content": message.get("content") or "",
        "finish_reason": choice.get("finish_reason"),
        "seconds": time.monotonic() - began,
        "exact": exact(item.wanted, calls),
    }


def openai_message(message: Message) -> dict[str, Any]:
    """A message as the API takes it."""
    plain: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        plain["tool_calls"] = [
            {
                "id": call.id or f"call_{i}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments_text},
            }
            for i, call in enumerate(message.tool_calls)
        ]
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    return plain


def exact(wanted: Message, calls: Sequence[Mapping[str, Any]]) -> bool:
    """The same calls in any order."""
    try:
        got = Counter(canonical(call["name"], json.loads(call["arguments"])) for call in calls)
    except (ValueError, TypeError):
        return False
    return got == Counter(canonical(call.name, call.arguments) for call in wanted.tool_calls)


def canonical(name: str, arguments: Any) -> str:
    """Equal for equal JSON: keys in any order, 1 and 1.0 the same number, true and 1 not the same."""

    def numbers(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: numbers(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [numbers(inner) for inner in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    return json.dumps([name, numbers(arguments)], sort_keys=True)


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures by split and kind; errors count as wrong."""
    groups: dict[str, dict[str, list[bool]]] = {"exact": defaultdict(list), "no_call": defaultdict(list)}
    kinds: dict[str, list[bool]] = defaultdict(list)
    tally = Tally()
    for row in rows:
        right = bool(row.get("exact"))
        groups["exact" if row["wanted"].get("tool_calls") else "no_call"][row["split"]].append(right)
        kinds[f"{row['kind']} ({row['split']})"].append(right)
        for call in row.get("calls", ()):
            tally.add(judge(call, row["tools"]), row["id"], call)
    return {
        "turns": len(rows),
        **{name: {split: _share(of) for split, of in sorted(by.items())} for name, by in groups.items()},
        "by_kind": {kind: _share(of) for kind, of in sorted(kinds.items())},
        "errors": sum("error" in row for row in rows),
        "cut_replies": sum(row.get("finish_reason") == "length" for row in rows),
        "legality": tally.as_json(),
    }


def _share(right: Sequence[bool]) -> dict[str, Any]:
    n, correct = len(right), sum(right)
    return {"n": n, "correct": correct, "accuracy": correct / n, "interval": wilson(correct, n)}
