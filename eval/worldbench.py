"""Multi-turn tool use in worlds that no training data know: calls are executed, the state is compared after each turn.

A turn is right when the world is in the wanted state, every needed call was made, no state-changing call too many, and
no call where none is wanted. A conversation goes on as the model made it; after a wrong turn it goes on from the
reference, so that every turn is measured from a right past. A conversation is right when all its turns are.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_recipes.worlds.blueprint import Call, Trajectory, objects
from data_recipes.worlds.produce import Order, produce
from data_recipes.worlds.replay import Replay
from eval.ask import Asked, ask
from eval.heldout import openai_message
from eval.weights import wilson
from octupus.errors import ConfigError
from octupus.publish import publish_bytes, publish_json
from octupus.wire.messages import Message, ToolCall, canonical_json

SIZES: Mapping[str, int] = {
    "easy": 1000,
    "irrelevance": 1000,
    "base": 300,
    "miss_func": 200,
    "miss_param": 200,
    "error": 100,
    "correction": 100,
    "no_call": 100,
    "long": 50,
}
"""Conversations of each split; ``easy`` has one or two turns of one or two calls, as has ``irrelevance``."""
EASY = ("easy", "irrelevance")
SEED, STEPS, MAX_TOKENS, CONCURRENCY = 77, 12, 512, 16

Policy = Callable[[list[dict[str, Any]], list[dict[str, Any]]], Asked]
"""Messages and tools in OpenAI's form; what came back."""


@dataclass(frozen=True)
class Item:
    id: str
    split: str
    trajectory: Trajectory


def items(sizes: Mapping[str, int]) -> Iterator[Item]:
    """The benchmark's conversations, the same for the same sizes; a smaller size is the beginning of a larger one.

    Raises:
        ConfigError: a split that does not exist.
    """
    unknown = sorted(sizes.keys() - SIZES.keys())
    if unknown:
        raise ConfigError(f"worldbench has no split {unknown[0]!r}; choose some of {', '.join(SIZES)}")
    for split, count in sizes.items():
        kind = "base" if split == "easy" else split
        order = Order(SEED, "heldout", ((kind, 1.0),), split in EASY)
        for index in range(count):
            yield Item(f"{split}-{index}", split, produce(order, index)[0])


def play(item: Item, policy: Policy) -> list[dict[str, Any]]:
    """One row a turn: ``id``, ``kind``, ``right``, ``reasons``, ``calls``."""
    trajectory, rows = item.trajectory, []
    replay, messages = Replay(trajectory), list[Message]()
    for number, turn in enumerate(trajectory.turns):
        replay.begin(turn, turn.user)
        messages.append(Message(role="user", content=turn.user))
        reasons = _turn(replay, messages, [tool.raw for tool in trajectory.tools(turn)], policy)
        reasons += replay.outcome()
        told = {"id": f"{item.id}:{number}", "split": item.split, "kind": turn.kind, "world": trajectory.world.NAME}
        rows.append({**told, "right": not reasons, "reasons": reasons, "calls": [c.key for c in replay.made]})
        if reasons:
            replay, messages = _reference(trajectory, number + 1)
    return rows


def _turn(replay: Replay, messages: list[Message], tools: list[dict[str, Any]], policy: Policy) -> list[str]:
    """Ask until an answer has no calls; executes what is called and appends what is said."""
    for _ in range(STEPS):
        answer = policy([openai_message(m) for m in messages], tools)
        if answer.error:
            return [answer.error]
        at = len(messages)
        made = tuple(
            ToolCall.from_text(c["name"], c["arguments"], f"call_{at}_{i}") for i, c in enumerate(answer.calls)
        )
        messages.append(Message(role="assistant", content=answer.content, tool_calls=made))
        if not made:
            return []
        if any(isinstance(call.arguments, str) for call in made):
            return ["arguments are no JSON object"]
        results = replay.act([Call(call.name, call.arguments) for call in made if isinstance(call.arguments, dict)])
        messages += [
            Message(role="tool", content=text, tool_call_id=call.id) for call, text in zip(made, results, strict=True)
        ]
    return [f"no answer after {STEPS} steps"]


def _reference(trajectory: Trajectory, count: int) -> tuple[Replay, list[Message]]:
    """The world and the conversation behind the first turns, as they should be."""
    replay = Replay(trajectory)
    for turn in trajectory.turns[:count]:
        replay.begin(turn, turn.user)
        for message in turn.messages:
            if message.tool_calls:
                replay.act([Call(c.name, objects(c.arguments)) for c in message.tool_calls])
    return replay, trajectory.messages(count)


def play_all(wanted: Sequence[Item], policy: Policy, threads: int = CONCURRENCY) -> list[dict[str, Any]]:
    """Every turn of every conversation, in order."""
    with ThreadPoolExecutor(threads) as pool:
        return [row for rows in pool.map(lambda item: play(item, policy), wanted) for row in rows]


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Shares right by split, of turns and of conversations, and by what a turn wants (call, refuse, ask, talk)."""
    turns, talks, kinds = (defaultdict[str, list[bool]](list) for _ in range(3))
    whole: dict[tuple[str, str], bool] = {}
    for row in rows:
        turns[row["split"]].append(row["right"])
        key = (row["split"], row["id"].partition(":")[0])
        whole[key] = whole.get(key, True) and row["right"]
        kinds[f"{row['split']}: {row['kind']}"].append(row["right"])
    for (split, _), right in whole.items():
        talks[split].append(right)
    named = {"turns": turns, "conversations": talks, "turns by kind": kinds}
    return {name: {key: _share(of) for key, of in by.items()} for name, by in named.items()}


def _share(right: Sequence[bool]) -> dict[str, Any]:
    n, correct = len(right), sum(right)
    return {"n": n, "right": correct, "share": correct / n, "interval": wilson(correct, n)}


def run(base_url: str, key: str, model: str, folder: Path, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Measure what an endpoint serves; ``scores.json`` and ``turns.jsonl`` go to ``folder``."""

    def policy(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Asked:
        return ask(base_url, key, model, messages, tools, MAX_TOKENS)

    rows = play_all(list(items(sizes)), policy)
    lines = "".join(f"{canonical_json(row)}\n" for row in rows)
    publish_bytes(folder / "turns.jsonl", lines.encode())
    found = {"format_version": 1, "model": model, "seed": SEED, **json.loads(json.dumps(summarise(rows)))}
    publish_json(folder / "scores.json", found)
    return found


def table(found: Mapping[str, Any]) -> str:
    """Lines for a terminal."""
    lines = [f"{'split':14}{'turns':>8}{'right':>9}  95%{'':15}{'conversations':>13}{'right':>9}"]
    for split, turns in found["turns"].items():
        talks, (low, high) = found["conversations"][split], turns["interval"]
        left = f"{split:14}{turns['n']:8}{100 * turns['share']:8.2f}%  {100 * low:.1f} to {100 * high:.1f}"
        lines.append(f"{left:53}{talks['n']:13}{100 * talks['share']:8.2f}%")
    wants = {"refuse": "says that no function fits", "ask": "asks for the value", "talk": "answers in words"}
    for name, turns in found["turns by kind"].items():
        split, _, kind = name.partition(": ")
        if kind in wants:
            lines.append(f"{split:14}{turns['n']:8}{100 * turns['share']:8.2f}%  {wants[kind]}")
    return "\n".join(lines)
