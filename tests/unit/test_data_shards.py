"""Shards: what goes in comes out, what is half is never taken for whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octupus.data.shards import Shards, ShardWriter
from octupus.errors import DataError
from tests.support.disk import no_file_beyond

Row = tuple[list[int], list[bool], list[int]]


@st.composite
def rows(draw: st.DrawFn) -> Row:
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    total = sum(lengths)
    mask = draw(st.lists(st.booleans(), min_size=total, max_size=total))
    mask[draw(st.integers(0, total - 1))] = True
    ids = draw(st.lists(st.integers(0, 152_000), min_size=total, max_size=total))
    return ids, mask, [0, *np.cumsum(lengths)[:-1].tolist()]


def write(folder: Path, some: list[Row], **facts: object) -> None:
    with ShardWriter(folder) as writer:
        for row in some:
            writer.add(*row)
        writer.publish(context=40, fingerprint="sha256:f", **facts)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(some=st.lists(rows(), min_size=1, max_size=5))
def test_rows_come_back_as_views(some: list[Row], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("shards")
    write(folder, some)
    shards = Shards(folder)
    assert len(shards) == len(some)
    for (ids, mask, starts), row in zip(some, shards, strict=True):
        assert (row.ids.tolist(), row.mask.tolist(), row.starts.tolist()) == (ids, mask, starts)
        assert not row.ids.flags.owndata and row.ids.dtype == np.int32 and row.mask.dtype == np.bool_
        assert [i for document, _ in row.documents() for i in document.tolist()] == ids
    manifest = shards.manifest
    assert manifest.tokens == sum(len(ids) for ids, _, _ in some)
    assert manifest.supervised_tokens == sum(sum(mask) for _, mask, _ in some)
    assert manifest.documents == sum(len(starts) for _, _, starts in some)
    assert manifest.packing_efficiency == pytest.approx(manifest.tokens / (40 * len(some)), abs=1e-6)


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    some = [([1, 2, 3], [False, True, True], [0]), ([4, 5], [True, True], [0, 1])]
    for name in ("a", "b"):
        write(tmp_path / name, some, details={"sources": []})
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize(
    "row",
    [
        ([1, 2], [False, False], [0]),  # nothing to learn
        ([1, 2], [True], [0]),
        ([1, 2], [True, True], [0, 2]),  # an empty document
        ([1, 2], [True, True], [1]),
        ([], [], [0]),
    ],
)
def test_illegal_rows_are_refused(row: Row, tmp_path: Path) -> None:
    with ShardWriter(tmp_path) as writer, pytest.raises(DataError):
        writer.add(*row)


def test_half_written_is_never_whole(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no finished shards.*make data"):
        Shards(tmp_path)
    write(tmp_path, [([1, 2, 3], [True] * 3, [0])])
    Shards(tmp_path).verify()
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path) as writer:  # a second build, interrupted
        writer.add([1], [True])
        raise KeyboardInterrupt
    with pytest.raises(DataError, match=r"no finished shards"):
        Shards(tmp_path)


def test_cut_and_changed_files_are_named(tmp_path: Path) -> None:
    write(tmp_path, [([1, 2, 3], [True] * 3, [0])])
    ids = tmp_path / "ids.bin"
    whole = ids.read_bytes()
    ids.write_bytes(whole[:-1] + b"\x01")
    with pytest.raises(DataError, match=r"ids.bin: has changed.*make data"):
        Shards(tmp_path).verify()
    ids.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"ids.bin: has 11 bytes, its manifest says 12"):
        Shards(tmp_path)
    ids.unlink()
    with pytest.raises(DataError, match=r"ids.bin: is missing"):
        Shards(tmp_path)


def test_no_space_is_a_sentence_and_leaves_nothing_that_counts(tmp_path: Path) -> None:
    with no_file_beyond(10_000), pytest.raises(DataError, match=r"cannot write.*free some space.*same command"):
        write(tmp_path / "s", [([1] * 5000, [True] * 5000, [0])] * 20)
    with pytest.raises(DataError, match=r"no finished shards"):
        Shards(tmp_path / "s")
