"""Held-out data during training: the loss, and how many assistant turns greedy decoding would write exactly.

Where each supervised token is the most likely one after the true tokens before it, greedy decoding without a constraint
writes exactly that turn. So the arg-max of one forward pass answers what would otherwise take a generation per turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from octupus.data.batches import IGNORE, Batch, collate
from octupus.data.shards import PackedRow
from octupus.errors import DataError, WireError
from octupus.train.model import Inputs
from octupus.train.ranks import Ranks
from octupus.wire import Conversation, Wire


@dataclass(frozen=True)
class Validation:
    """This rank's part of the held-out conversations."""

    batches: tuple[tuple[Batch, float], ...]
    """With 1 each, or 0 where it only keeps the ranks in step (ZeRO-3 gathers weights with all of them)."""
    call: int
    """The token that opens a call: turns that hold it are counted apart."""

    @staticmethod
    def of(path: Path, wire: Wire, context: int, limit: int, ranks: Ranks) -> Validation | None:
        """At most ``limit`` conversations from all over ``data/heldout.jsonl``; None where there are none.

        Raises:
            DataError: a row that is no conversation.
        """
        rows = list(_rows(path, wire, context, limit))
        if not rows:
            return None
        dealt: list[list[PackedRow]] = [[]]
        for row in rows:
            if sum(len(r.ids) for r in dealt[-1]) + len(row.ids) > context:
                dealt.append([])
            dealt[-1].append(row)
        made = [collate(batch) for batch in dealt]
        turns = -(-len(made) // ranks.world)
        mine = [
            (made[i % len(made)], float(i < len(made))) for i in range(ranks.rank, turns * ranks.world, ranks.world)
        ]
        return Validation(tuple(mine), wire.tokenizer.added_tokens[wire.dialect.calls.open])

    def measure(self, engine: Any, ranks: Ranks) -> dict[str, float | int | None]:
        """Nats per supervised token; shares of turns, and of turns with calls, that are right in every token."""
        sums = np.zeros(6)
        engine.eval()
        with torch.no_grad():
            for batch, counts in self.batches:
                losses, right = engine(Inputs.of(batch, ranks.device))
                sums += counts * self._judged(batch, losses.cpu().numpy(), right.cpu().numpy())
        engine.train()
        loss, tokens, turns, exact, calling, exact_calls = ranks.total(sums.tolist())
        return {
            "val_loss": loss / tokens,
            "val_exact": exact / turns,
            "val_exact_calls": exact_calls / calling if calling else None,
            "val_calls": int(calling),
        }

    def _judged(self, batch: Batch, losses: np.ndarray, right: np.ndarray) -> np.ndarray:
        places = np.flatnonzero(batch.labels[0] != IGNORE)
        begins = np.flatnonzero(np.diff(places, prepend=-2) != 1)  # a turn is a run of supervised places
        exact = np.logical_and.reduceat(right, begins)
        calls = np.logical_or.reduceat(batch.labels[0][places] == self.call, begins)
        return np.array([losses.sum(), len(places), len(begins), exact.sum(), calls.sum(), (exact & calls).sum()])


def _rows(path: Path, wire: Wire, context: int, limit: int) -> Iterator[PackedRow]:
    """One document a row; what is longer than the context is passed over, as in training."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as stream:
        lines = list(stream)
    count = min(limit, len(lines))
    for number in (i * len(lines) // count for i in range(count)):  # evenly: the file holds source after source
        try:
            row = json.loads(lines[number])
            done = wire.render(Conversation.model_validate({"messages": row["messages"], "tools": row["tools"]}))
        except (ValueError, KeyError, WireError) as error:
            raise DataError(f"not a held-out conversation: {error}", source=str(path), row=number) from error
        ids, mask = np.asarray(done.ids, np.int32), np.asarray(done.mask, bool)
        if len(ids) <= context and mask[1:].any():
            yield PackedRow(ids, mask, np.zeros(1, np.int32))
