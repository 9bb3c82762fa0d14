"""Several short rows in one training sequence.

Best fit decreasing: the longest row first, each into the fullest sequence that still has room (Ding et al. 2024,
"Fewer truncations improve language modeling", https://arxiv.org/abs/2404.10830). Sequences and their order are those
of `trl.pack_dataset(…, "bfd")`, which packs each thousand rows for themselves; so a large file needs no more memory.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass

import numpy as np

from steps.prepare_data.write.tokenising import Tokens

ROWS_PACKED_TOGETHER = 1000  # the batch size of datasets.map, which trl.pack_dataset leaves alone


@dataclass
class Packed:
    """Sequences, one behind the other, with the lengths of the rows that each holds."""

    tokens: Tokens
    """`tokens.lengths` are the lengths of the sequences."""
    row_lengths: np.ndarray
    """Lengths of the rows, in the order in which they lie in the sequences."""
    rows_in: np.ndarray
    """Number of rows in each sequence."""


def pack(tokens: Tokens, room: int) -> Packed:
    """Pack rows of at most `room` tokens into sequences of at most `room` tokens; empty rows vanish."""
    tokens = tokens.select(tokens.lengths > 0)
    bins = best_fit(tokens.lengths, room)
    order = np.fromiter((row for rows in bins for row in rows), np.int64, len(tokens))
    rows_in = np.fromiter(map(len, bins), np.int64, len(bins))
    ordered = tokens.take(order)
    ends = np.cumsum(rows_in)
    lengths = np.diff(ordered.starts[np.concatenate(([0], ends))])
    return Packed(Tokens(ordered.ids, ordered.labels, lengths), ordered.lengths, rows_in)


def best_fit(lengths: np.ndarray, room: int) -> list[list[int]]:
    """Divide rows among as few sequences as best fit decreasing finds; gives the row numbers of each sequence."""
    bins: list[list[int]] = []
    with_space: dict[int, deque[list[int]]] = {}
    spaces: list[int] = []  # the distinct free spaces, rising
    for row in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[row])
        at = bisect_left(spaces, length)
        if at == len(spaces):
            space = room
            bins.append(chosen := [])
        else:
            space = spaces[at]
            chosen = with_space[space].popleft()  # the one that has waited longest
            if not with_space[space]:
                del with_space[space], spaces[at]
        chosen.append(row)
        if left := space - length:
            if left not in with_space:
                with_space[left] = deque()
                insort(spaces, left)
            with_space[left].append(chosen)
    return bins
