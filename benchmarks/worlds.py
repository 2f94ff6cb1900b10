"""Figures of docs/worlds.md. ``--part spoil|decontaminate|policies``; the last line is one JSON object.

How fast and how diverse trajectories are: ``python -m data_recipes.worlds make --n 100000``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from random import Random
from typing import Any

from data_recipes.worlds.produce import Order, produce
from data_recipes.worlds.registry import HELDOUT, TRAINING
from data_recipes.worlds.world import offer
from eval.ask import Asked
from eval.world_policies import Always, Never, Perfect
from eval.worldbench import SIZES, items, play_all, summarise, table
from octupus.data.decontaminate import Benchmark, signature
from octupus.wire.messages import Message, Tool


def spoil(count: int) -> dict[str, Any]:
    """Trajectories spoiled in one place: how many are rejected."""
    from tests.support.spoiled import passed, spoil

    done, kept, index = Counter[str](), Counter[str](), 0
    while done.total() < count:
        trajectory, _ = produce(Order(seed=11), index)
        spoiled = spoil(trajectory, Random(index))
        index += 1
        if spoiled is not None:
            done[spoiled[0]] += 1
            kept[spoiled[0]] += passed(trajectory, spoiled[1])
    rejected = done.total() - kept.total()
    return {"spoiled": dict(done), "passed all the same": dict(kept), "rejected": rejected / done.total()}


def decontaminate(count: int) -> dict[str, Any]:
    """Hits of every tool in both languages, and of ``count`` trajectories, against BFCL."""
    benchmark = Benchmark.find()
    assert benchmark is not None, "run `make bfcl-data` first"
    hits, shared = Counter[str](), set[str]()
    tools = [
        Tool(raw=offer(world, name, zh))
        for world in (*TRAINING.values(), *HELDOUT.values())
        for name in world.METHODS
        for zh in (False, True)
    ]
    question = Message(role="user", content="-")
    for tool in tools:
        asked = _conversation([question], [tool])
        hits["tool hits"] += benchmark.hit(asked) is not None
        if benchmark.same_name(asked):
            shared.add(signature(tool)[0])
    for index in range(count):
        for conversation in produce(Order(seed=12), index)[0].conversations():
            hits["question hits"] += benchmark.hit(conversation) is not None
            hits["conversations"] += 1
    return {"tools": len(tools), **hits, "against": benchmark.description, "shared names": sorted(shared)}


def _conversation(messages: list[Message], tools: list[Tool]) -> Any:
    from octupus.wire.messages import Conversation

    return Conversation(messages=tuple(messages), tools=tuple(tools))


def policies(percent: int) -> dict[str, Any]:
    """What worldbench says of policies whose outcome is known."""
    wanted = list(items({split: max(1, size * percent // 100) for split, size in SIZES.items()}))
    found = {}
    for policy in (Perfect(wanted), Never(), Always()):
        name = type(policy).__name__.lower()

        def ask(messages: list[dict[str, Any]], tools: list[dict[str, Any]], chosen: Any = policy) -> Asked:
            spoken = [Message(role=m["role"], content=m["content"]) for m in messages]
            calls, text = chosen.answer(spoken, tools)
            return Asked([{"name": n, "arguments": json.dumps(a), "incomplete": False} for n, a in calls], text)

        found[name] = summarise(play_all(wanted, ask, threads=2))
        print(f"{name}\n{table(found[name])}")
    return {name: {s: v["share"] for s, v in scores["conversations"].items()} for name, scores in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worlds", description=__doc__)
    parser.add_argument("--part", choices=("spoil", "decontaminate", "policies"), required=True)
    parser.add_argument(
        "--n", type=int, help="trajectories (spoil 2000, decontaminate 5000), or percent (policies 100)"
    )
    chosen = parser.parse_args()
    began = time.monotonic()
    part, usual = {"spoil": (spoil, 2000), "decontaminate": (decontaminate, 5000), "policies": (policies, 100)}[
        chosen.part
    ]
    found = part(chosen.n or usual)
    print(json.dumps({"part": chosen.part, **found, "seconds": round(time.monotonic() - began, 1)}, ensure_ascii=False))


if __name__ == "__main__":
    main()
