"""Divide training rows into a training part and held-out splits."""

from __future__ import annotations

from typing import Literal

import numpy as np

from steps.params.splits import SPLITS as SPLITS
from steps.params.splits import split_sizes


def split_rows(
    rows: int,
    given: set[str],
    how: Literal["shuffled", "positional"],
    seed: int,
    strata: np.ndarray | None = None,
    equal: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Divide the row numbers 0 … rows-1 of the training file among train and the splits without a file.

    The sizes are those of `split_sizes`; all rows are for training if both others are given. `shuffled` draws rows with
    the seed, `positional` takes them from the end; in both cases a split keeps the order of the file. With `strata`, an
    int64 for each row, drawn splits are stratified; strata that are too rare to divide go to training.
    Rows with the same value in `equal`, an int64 for each row, are in the same split. A drawn split is then smaller by
    what cannot be filled with such groups; it is empty if there are too few groups, and train has the other rows.
    """
    sizes = split_sizes(rows, given)
    if len(sizes) == 1:
        return {"train": np.arange(rows)}
    order = np.arange(rows) if how == "positional" else np.random.default_rng(seed).permutation(rows)
    if strata is not None and how == "shuffled":
        order = _interleaved(order, strata)
    parts = None if equal is None else _whole_groups(order, equal, sizes)
    if parts is None:
        ends = np.cumsum(list(sizes.values()))
        parts = dict(zip(sizes, np.split(order, ends[:-1]), strict=True))
    for part in parts.values():
        part.sort()  # in place, because a copy of a large file's row numbers takes much memory
    return parts


def _whole_groups(order: np.ndarray, equal: np.ndarray, sizes: dict[str, int]) -> dict[str, np.ndarray] | None:
    """Divide rows by groups of equal ones, the last split from the end of `order`; None if no two rows are equal.

    A group has the place of its first row in the file, so which groups are held out does not depend on their sizes.
    """
    _, first, group, count = np.unique(equal, return_index=True, return_inverse=True, return_counts=True)
    if len(first) == len(order):
        return None
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    waiting = np.argsort(place[first], kind="stable")  # groups, in the order of their places
    split_of_group = np.zeros(len(first), np.int64)
    names = list(sizes)
    for number in range(len(names) - 1, 0, -1):
        taken = _that_fit(count[waiting], sizes[names[number]])
        split_of_group[waiting[taken]] = number
        waiting = np.delete(waiting, taken)
    splits = split_of_group[group]
    return {name: order[splits[order] == number] for number, name in enumerate(names)}


def _that_fit(counts: np.ndarray, size: int) -> list[int]:
    """Return the positions of groups, from the end, that have at most `size` rows together; the first is train's."""
    taken: list[int] = []
    for position in range(len(counts) - 1, 0, -1):
        if size and counts[position] <= size:
            taken.append(position)
            size -= int(counts[position])
        if not size:
            break
    if not taken and len(counts) > 1:  # every group is larger than the split: the smallest one
        taken.append(len(counts) - 1 - int(np.argmin(counts[:0:-1])))
    return taken


def _interleaved(order: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Reorder rows so that any range has each stratum in proportion; rare strata come first."""
    by_stratum = order[np.argsort(strata[order], kind="stable")]
    values = strata[by_stratum]
    starts = np.concatenate(([0], np.flatnonzero(values[1:] != values[:-1]) + 1))
    sizes = np.diff(np.append(starts, len(order)))
    rank = np.arange(len(order)) - np.repeat(starts, sizes)
    return by_stratum[np.argsort(rank / np.repeat(sizes, sizes), kind="stable")]
