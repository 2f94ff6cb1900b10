"""Trajectories by the hundred thousand: sampled, replayed and counted by all cores."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_recipes.worlds.blueprint import Trajectory
from data_recipes.worlds.produce import Order, produce
from data_recipes.worlds.report import Tally
from octupus.data.near import NearDuplicates, signatures, words
from octupus.data.workers import Workers
from octupus.wire.messages import Conversation, canonical_json

CHUNK = 500
NEAR = 0.9
"""The share of common five-word runs from which on two trajectories count as one, as in recipes."""


@dataclass(frozen=True)
class Chunk:
    """A worker's work: some numbers of an order."""

    order: Order
    folder: Path
    rows: bool

    def __call__(self, number: int, numbers: range) -> Tally:
        tally, texts = Tally(), []
        lines: list[str] = []
        for index in numbers:
            trajectory, dropped = produce(self.order, index)
            tally.add(trajectory, dropped)
            found = list(trajectory.conversations())
            texts.append(words(found[-1]))
            if self.rows:
                lines += [canonical_json(row(f"{index}-{part}", c, trajectory)) for part, c in enumerate(found)]
        (self.folder / f"{number:06d}.bin").write_bytes(np.ascontiguousarray(signatures(texts), "<u4").tobytes())
        (self.folder / f"{number:06d}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return tally


def row(id: str, conversation: Conversation, trajectory: Trajectory) -> dict[str, Any]:
    """A conversation as other trainers read it."""
    dumped = conversation.model_dump(exclude_defaults=True)
    tools = [tool.raw for tool in conversation.tools]
    return {"id": id, "world": trajectory.world.NAME, "kind": trajectory.kind, **dumped, "tools": tools}


def make(order: Order, count: int, out: Path | None) -> dict[str, Any]:
    """Sample, replay and count ``count`` trajectories; rows go to ``out`` without the near duplicates."""
    began, tally = time.monotonic(), Tally()
    with tempfile.TemporaryDirectory() as name, Workers() as workers:
        folder = Path(name)
        chunks = (range(at, min(count, at + CHUNK)) for at in range(0, count, CHUNK))
        for done in workers.map(Chunk(order, folder, out is not None), chunks):
            tally.join(done)
            print(f"\r{tally.numbers['trajectories']} of {count}", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        seconds = time.monotonic() - began
        twins = NearDuplicates(sorted(folder.glob("*.bin"))).find(NEAR) >= 0
        if out is not None:
            with out.open("w", encoding="utf-8") as stream:
                stream.writelines(
                    line for line in _lines(folder) if not twins[int(json.loads(line)["id"].split("-")[0])]
                )
    return {
        **tally.report(),
        "points off the shares, at most": round(tally.apart(dict(order.shares)), 3),
        f"near duplicates at {NEAR}": int(twins.sum()),
        "seconds": round(seconds, 1),
    }


def _lines(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8") as stream:
            yield from stream
