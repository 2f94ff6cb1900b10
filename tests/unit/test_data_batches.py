"""Packing and batches: nothing lost, nothing mixed, the same rows at every world size, labels as documented."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octupus.data import IGNORE, Batches, PackedRow, collate, order, pack


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 64), max_size=80))
def test_packing_puts_every_document_into_one_row_that_holds_it(lengths: list[int]) -> None:
    order_, bounds = pack(np.array(lengths, np.int64), 64)
    assert sorted(order_.tolist()) == list(range(len(lengths)))
    for first, end in pairwise(bounds):
        row = [lengths[d] for d in order_[first:end]]
        assert row and sum(row) <= 64
    rows = len(bounds) - 1
    assert rows <= 2 * max(1, -(-sum(lengths) // 64)), "best fit leaves no two rows half empty"


@pytest.mark.parametrize("context", [4096, 8192])
def test_packing_is_tight_on_lengths_as_they_are(context: int) -> None:
    lengths = np.random.default_rng(0).lognormal(np.log(450), 0.8, 40_000).astype(np.int64).clip(1, context)
    _, bounds = pack(lengths, context)
    assert lengths.sum() / ((len(bounds) - 1) * context) >= 0.99


def test_documents_that_do_not_fit_are_the_callers_business() -> None:
    with pytest.raises(ValueError, match=r"from 1 to 8"):
        pack(np.array([9]), 8)


@st.composite
def packed(draw: st.DrawFn) -> PackedRow:
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    total = sum(lengths)
    ids = draw(st.lists(st.integers(0, 99), min_size=total, max_size=total))
    mask = draw(st.lists(st.booleans(), min_size=total, max_size=total))
    starts = [0, *np.cumsum(lengths)[:-1].tolist()]
    return PackedRow(np.array(ids, np.int32), np.array(mask), np.array(starts, np.int32))


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(packed(), min_size=1, max_size=4))
def test_labels_are_the_next_supervised_token_of_the_same_document(rows: list[PackedRow]) -> None:
    batch = collate(rows)
    ids, labels, positions, bounds = [], [], [], [0]
    for row in rows:
        for document, mask in row.documents():
            after = list(zip(document.tolist()[1:], mask.tolist()[1:], strict=True))
            ids += document.tolist()
            labels += [token if supervised else IGNORE for token, supervised in after] + [IGNORE]
            positions += range(len(document))
            bounds.append(len(ids))
    assert batch.input_ids.shape == batch.labels.shape == batch.position_ids.shape == (1, len(ids))
    assert {batch.input_ids.dtype, batch.labels.dtype, batch.position_ids.dtype} == {np.dtype(np.int64)}
    assert batch.input_ids[0].tolist() == ids
    assert batch.labels[0].tolist() == labels
    assert batch.position_ids[0].tolist() == positions
    assert batch.bounds.tolist() == bounds
    assert batch.supervised == sum(label != IGNORE for label in labels)


def some_rows(n: int) -> list[PackedRow]:
    return [
        PackedRow(np.array([i, i + 1], np.int32), np.array([False, True]), np.array([0], np.int32)) for i in range(n)
    ]


def test_a_step_holds_the_same_rows_at_every_world_size() -> None:
    shards = some_rows(37)
    for step in range(9):
        found = []
        for world, micro, accumulation in ((1, 1, 8), (2, 1, 4), (4, 2, 1), (1, 8, 1)):
            ranks = [Batches(shards, rank, world, micro, accumulation, 3, 2) for rank in range(world)]
            parts = [ranks[0].rows(step)] + [b.rows(step) for b in ranks[1:]]
            assert all(len(p) == accumulation and all(len(m) == micro for m in p) for p in parts)
            found.append(sorted(i for part in parts for m in part for i in m))
        assert found[0] == found[1] == found[2] == found[3]


def test_every_epoch_deals_every_row_once_in_another_order() -> None:
    batches = Batches(some_rows(12), 0, 1, 1, 4, seed=5, epochs=2)
    assert batches.steps == 6 and batches.global_batch == 4
    dealt = [i for step in range(6) for m in batches.rows(step) for i in m]
    assert sorted(dealt[:12]) == sorted(dealt[12:]) == list(range(12))
    assert dealt[:12] != dealt[12:]
    assert dealt[:12] == order(5, 0, 12).tolist() != order(6, 0, 12).tolist()
    assert Batches(some_rows(12), 0, 1, 1, 5, seed=5, epochs=1).steps == 3, "a last step goes on into the next epoch"


def test_a_step_is_a_pure_function() -> None:
    shards = some_rows(10)
    late = Batches(shards, 1, 2, 2, 2, 0, 3).at(4)
    walked = Batches(shards, 1, 2, 2, 2, 0, 3)
    for step in range(4):
        walked.at(step)
    for one, other in zip(late, walked.at(4), strict=True):
        assert one.input_ids.tolist() == other.input_ids.tolist()
        assert one.input_ids.shape == (1, 4)


def test_memory_mapped_rows_collate(tmp_path: Path) -> None:
    from octupus.data import Shards, ShardWriter

    with ShardWriter(tmp_path) as writer:
        writer.add([7, 8, 9, 5, 6], [False, True, True, False, True], [0, 3])
        writer.publish(context=8)
    (batch,) = Batches(Shards(tmp_path), 0, 1, 1, 1, 0, 1).at(0)
    assert batch.labels.tolist() == [[8, 9, IGNORE, 6, IGNORE]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1]]
    assert batch.bounds.tolist() == [0, 3, 5] and batch.supervised == 3
