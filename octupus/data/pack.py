"""Best-fit packing of whole documents into rows of at most ``context`` tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pack(lengths: NDArray[np.integer], context: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Best-fit decreasing: the longest document first, each into the row that it leaves least room in.

    Args:
        lengths: tokens of every document, each from 1 to ``context``.
        context: tokens that a row may hold.

    Returns:
        ``(order, bounds)``: row r holds the documents ``order[bounds[r]:bounds[r + 1]]``, longest first. Depends on
        nothing but the arguments.

    Raises:
        ValueError: a document that is empty or longer than ``context`` (the caller drops and counts those).
    """
    if len(lengths) and (lengths.min() < 1 or lengths.max() > context):
        raise ValueError(f"document lengths must be from 1 to {context}")
    longest_first = np.argsort(-lengths.astype(np.int64), kind="stable")
    row_of = np.empty(len(lengths), np.int64)
    # with_room[n] are the rows with exactly n tokens of room, and bit n of `rooms` says that there are some: one shift
    # and one lowest set bit find the tightest row, whatever the number of rows.
    with_room: list[list[int]] = [[] for _ in range(context + 1)]
    rooms = rows = 0
    for place, length in enumerate(lengths[longest_first].tolist()):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, row = context, rows
            rows += 1
        row_of[place] = row
        left = room - length
        if left:
            with_room[left].append(row)
            rooms |= 1 << left
    by_row = np.argsort(row_of, kind="stable")
    bounds = np.zeros(rows + 1, np.int64)
    np.cumsum(np.bincount(row_of, minlength=rows), out=bounds[1:])
    return longest_first[by_row], bounds
