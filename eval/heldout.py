"""Exact-call accuracy on conversations that were never trained on: the honest figure for a small model.

Every assistant turn of ``data/heldout.jsonl`` is asked for with the true turns before it. Exact: the same calls, names
and arguments equal as JSON, in any order. Where no call is wanted, any call is wrong.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Literal

from eval.ask import ask
from eval.checker import judge, schemas_of, tally
from eval.endpoint import Server, identity, wait_for
from eval.weights import wilson
from octupus.config import Recipe
from octupus.errors import DataError
from octupus.publish import publish_bytes, publish_json, read_json
from octupus.runs import Reporter, Run
from octupus.wire.messages import Conversation, Message

CONCURRENCY = 16
MAX_TOKENS = 256


def run(recipe: Recipe, run: Run, label: Literal["before", "after"]) -> dict[str, Any]:
    """Ask the run's endpoint and publish ``heldout/<label>.json`` and ``heldout/calls-<label>.jsonl``.

    Raises:
        DataError: a held-out row is no conversation. JobError: no endpoint came up, or it died.
    """
    source, stage = run.path / "data" / "heldout.jsonl", run.stage("heldout")
    items = list(read_items(source, recipe.bfcl.heldout))
    server = wait_for(run, recipe.serve, "baseline" if label == "before" else "serve")
    asked = hashlib.sha256(json.dumps([items, MAX_TOKENS]).encode()).hexdigest()[:16]
    subject = {"format_version": 1, "label": label, "subject": identity(server), "asked": asked}
    target = stage.path / f"{label}.json"
    known = read_json(target)
    if known is None or {key: known[key] for key in subject} != subject:
        print(f"heldout {label}: {len(items)} turns asked of {server.endpoint.model}", flush=True)
        with stage.reporting(len(items), "turns") as reporter:
            rows = _ask_all(server, items, reporter)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        publish_bytes(stage.path / f"calls-{label}.jsonl", lines.encode())
        known = json.loads(json.dumps({**subject, "served": server.endpoint.model, **summarise(rows)}))
        publish_json(target, known)
    return {"scores": f"heldout/{label}.json", **{key: known[key] for key in ("turns", "exact", "no_call", "errors")}}


def read_items(path: Path, limit: int | None) -> Iterator[dict[str, Any]]:
    """The assistant turns of the first ``limit`` conversations, in OpenAI's form: what comes before, what is wanted.

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
            told = {"split": row["split"], "kind": row["kind"]}
            conversation = Conversation.model_validate({"messages": row["messages"], "tools": row["tools"]})
        except (ValueError, KeyError) as error:
            raise DataError(f"not a held-out conversation: {error}", source=str(path), row=number) from error
        spoken = [openai_message(message) for message in conversation.messages]
        for at, message in enumerate(spoken):
            if message["role"] == "assistant":
                tools = [tool.raw for tool in conversation.tools]
                yield {"id": f"{number}:{at}", **told, "messages": spoken[:at], "tools": tools, "wanted": message}


def openai_message(message: Message) -> dict[str, Any]:
    """A message as the API takes it."""
    plain: dict[str, Any] = {"role": message.role, "content": message.content}
    calls = [(call.id or f"call_{i}", call) for i, call in enumerate(message.tool_calls)]
    if calls:
        functions = [(id, {"name": call.name, "arguments": call.arguments_text}) for id, call in calls]
        plain["tool_calls"] = [{"id": id, "type": "function", "function": function} for id, function in functions]
    return plain if message.tool_call_id is None else {**plain, "tool_call_id": message.tool_call_id}


def _ask_all(server: Server, items: Sequence[dict[str, Any]], reporter: Reporter) -> list[dict[str, Any]]:
    """Every item with its answer, in order. Nobody waits for the threads: a dead server may keep them reading."""
    todo, answered = SimpleQueue[int](), SimpleQueue[tuple[int, dict[str, Any] | Exception]]()
    urls = server.base_urls
    for index in range(len(items)):
        todo.put(index)

    def work() -> None:
        with suppress(Empty):
            while True:
                index = todo.get_nowait()
                try:
                    answered.put((index, _ask(server, urls[index % len(urls)], items[index])))
                except Exception as error:  # raised again below, by whoever waits for it
                    answered.put((index, error))

    for _ in range(min(CONCURRENCY, len(items))):
        Thread(target=work, daemon=True).start()
    found: dict[int, dict[str, Any]] = {}
    try:
        while len(found) < len(items):
            try:
                index, row = answered.get(timeout=2)
            except Empty:
                server.check()
                continue
            if isinstance(row, Exception):
                raise row
            if "error" in row:
                server.check()
            found[index] = row
            reporter.update(len(found))
    finally:
        with suppress(Empty):
            while True:
                todo.get_nowait()
    return [found[index] for index in range(len(items))]


def _ask(server: Server, url: str, item: dict[str, Any]) -> dict[str, Any]:
    """The item with what came back: calls, content, finish_reason, seconds, exact; or with ``error``."""
    asked = ask(url, server.api_key, server.endpoint.model, item["messages"], item["tools"], MAX_TOKENS)
    if asked.error:
        return {**item, "error": asked.error}
    answer = {"calls": asked.calls, "content": asked.content, "finish_reason": asked.finish_reason}
    return {**item, **answer, "seconds": asked.seconds, "exact": exact(item["wanted"], asked.calls)}


def exact(wanted: Mapping[str, Any], calls: Sequence[Mapping[str, Any]]) -> bool:
    """The same calls in any order."""
    try:
        got = Counter(canonical(call) for call in calls)
    except (ValueError, TypeError):
        return False
    return got == Counter(canonical(call["function"]) for call in wanted.get("tool_calls", ()))


def canonical(call: Mapping[str, Any]) -> str:
    """Equal for equal JSON: keys in any order, 1 and 1.0 the same number, true and 1 not the same."""

    def numbers(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: numbers(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [numbers(inner) for inner in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    return json.dumps([call["name"], numbers(json.loads(call["arguments"]))], sort_keys=True)


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Shares right by split and kind, where calls are wanted and where none is; errors count as wrong."""
    groups: dict[str, dict[str, list[bool]]] = {name: defaultdict(list) for name in ("exact", "no_call", "by_kind")}
    for row in rows:
        right = bool(row.get("exact"))
        calls = bool(row["wanted"].get("tool_calls"))
        groups["exact" if calls else "no_call"][row["split"]].append(right)
        groups["by_kind"][f"{row['kind'] if calls else 'no call wanted'} ({row['split']})"].append(right)
    judged = [(row, call) for row in rows for call in row.get("calls", ())]
    return {
        "turns": len(rows),
        **{name: {key: _share(of) for key, of in sorted(by.items())} for name, by in groups.items()},
        "errors": sum("error" in row for row in rows),
        "cut_replies": sum(row.get("finish_reason") == "length" for row in rows),
        "legality": tally((row["id"], call, judge(call, schemas_of(row["tools"]))) for row, call in judged),
    }


def _share(right: Sequence[bool]) -> dict[str, Any]:
    n, correct = len(right), sum(right)
    return {"n": n, "correct": correct, "accuracy": correct / n, "interval": wilson(correct, n)}
