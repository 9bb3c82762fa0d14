"""Sequence packing: several short rows in one training sequence.

Best fit decreasing: the longest row first, each into the fullest sequence that still has space (Ding et al. 2024,
"Fewer truncations improve language modeling", https://arxiv.org/abs/2404.10830). Sequences and their order are those
of `trl.pack_dataset(…, "bfd")`, which packs every thousand rows separately, so a large file needs no more memory.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass

import numpy as np

from steps.prepare_data.write.tokenising import Tokens

ROWS_PACKED_TOGETHER = 1000  # the default batch size of datasets.map, which trl.pack_dataset does not change


@dataclass
class Packed:
    """Concatenated sequences, with the lengths of the rows in each."""

    tokens: Tokens
    """`tokens.lengths` are the lengths of the sequences."""
    row_lengths: np.ndarray
    """Lengths of the rows, in their order in the sequences."""
    rows_in: np.ndarray
    """Number of rows in each sequence."""


def pack(tokens: Tokens, room: int) -> Packed:
    """Pack rows of at most `room` tokens into sequences of at most `room` tokens; empty rows are dropped."""
    tokens = tokens.select(tokens.lengths > 0)
    bins = best_fit(tokens.lengths, room)
    order = np.fromiter((row for rows in bins for row in rows), np.int64, len(tokens))
    rows_in = np.fromiter(map(len, bins), np.int64, len(bins))
    ordered = tokens.take(order)
    ends = np.cumsum(rows_in)
    lengths = np.diff(ordered.starts[np.concatenate(([0], ends))])
    return Packed(Tokens(ordered.ids, ordered.labels, lengths), ordered.lengths, rows_in)


def best_fit(lengths: np.ndarray, room: int) -> list[list[int]]:
    """Assign rows to sequences by best fit decreasing; return the row numbers of each sequence."""
    bins: list[list[int]] = []
    with_space: dict[int, deque[list[int]]] = {}
    spaces: list[int] = []  # the distinct free spaces, sorted
    for row in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[row])
        at = bisect_left(spaces, length)
        if at == len(spaces):
            space = room
            bins.append(chosen := [])
        else:
            space = spaces[at]
            chosen = with_space[space].popleft()  # the oldest sequence with this space
            if not with_space[space]:
                del with_space[space], spaces[at]
        chosen.append(row)
        if left := space - length:
            if left not in with_space:
                with_space[left] = deque()
                insort(spaces, left)
            with_space[left].append(chosen)
    return bins
