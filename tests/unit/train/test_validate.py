"""Held-out turns: which count as exact, and how the ranks share them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from octupus.errors import DataError
from octupus.train.ranks import Ranks
from octupus.train.validate import Validation
from tests.numerical.world import held_out
from tests.support.tiny import tiny_wire


class FakeEngine:
    """Stands for a model that predicts every token, but for the ``wrong``-th supervised one of each micro-batch."""

    def __init__(self, wrong: int | None) -> None:
        self.wrong, self.calls = wrong, 0

    def eval(self) -> None: ...

    def train(self) -> None: ...

    def __call__(self, inputs):
        self.calls += 1
        right = torch.ones(len(inputs.targets), dtype=torch.bool)
        if self.wrong is not None:
            right[self.wrong] = False
        return torch.full((len(inputs.targets),), 0.5), right


class Alone(Ranks):
    def total(self, values):
        return list(values)


def ranks(rank: int = 0, world: int = 1) -> Ranks:
    return Alone(rank, world, torch.device("cpu"), None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "heldout.jsonl"
    target.write_text("".join(json.dumps(row) + "\n" for row in held_out()))
    return target


def test_a_turn_is_exact_when_every_token_is(path: Path) -> None:
    found = Validation.of(path, tiny_wire(), 4096, 100, ranks())
    assert found is not None and len(found.batches) == 1
    right = found.measure(FakeEngine(None), ranks())
    assert right == {"val_loss": 0.5, "val_exact": 1.0, "val_exact_calls": 1.0, "val_calls": 3}
    first = found.measure(FakeEngine(0), ranks())  # in the first turn, which holds no call
    assert (first["val_exact"], first["val_exact_calls"]) == (pytest.approx(8 / 9), 1.0)
    labels = found.batches[0][0].labels[0]
    supervised = labels[labels != -100]
    call = int(np.flatnonzero(supervised == found.call)[0])
    assert found.measure(FakeEngine(call), ranks())["val_exact_calls"] == pytest.approx(2 / 3)


def test_every_rank_does_as_many_passes_and_each_turn_counts_once(path: Path) -> None:
    whole = Validation.of(path, tiny_wire(), 200, 100, ranks())
    assert whole is not None and len(whole.batches) > 1
    shares = [Validation.of(path, tiny_wire(), 200, 100, ranks(rank, 3)) for rank in range(3)]
    passes = {len(share.batches) for share in shares if share is not None}
    assert len(passes) == 1
    counted = sum(weight for share in shares if share is not None for _, weight in share.batches)
    assert counted == len(whole.batches)


def test_a_sample_comes_from_all_over_the_file(path: Path) -> None:
    """Sources stand one after the other there; the first lines alone would leave the others out."""
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1] * 5 + lines[1:2]))  # only the last one holds a call
    for limit, calls in ((2, 0), (6, 1), (100, 1)):
        found = Validation.of(path, tiny_wire(), 4096, limit, ranks())
        assert found is not None and found.measure(FakeEngine(None), ranks())["val_calls"] == calls
    path.write_text("".join(lines[:1] * 3 + lines[1:2] * 3))
    half = Validation.of(path, tiny_wire(), 4096, 2, ranks())
    assert half is not None and half.measure(FakeEngine(None), ranks())["val_calls"] == 1


def test_nothing_held_out_is_no_validation_and_a_broken_row_is_named(path: Path, tmp_path: Path) -> None:
    assert Validation.of(tmp_path / "none.jsonl", tiny_wire(), 200, 10, ranks()) is None
    path.write_text(path.read_text() + '{"messages": 3}\n')
    with pytest.raises(DataError, match=r"heldout.jsonl row 6: not a held-out conversation"):
        Validation.of(path, tiny_wire(), 200, 10, ranks())
