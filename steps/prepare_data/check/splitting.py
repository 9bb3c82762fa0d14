"""Divide training rows into a training part and held-out splits."""

from __future__ import annotations

from typing import Literal

import numpy as np

from steps.params.splits import SPLITS as SPLITS
from steps.params.splits import split_sizes


def split_rows(
    rows: int, given: set[str], how: Literal["shuffled", "positional"], seed: int, strata: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Divide the row numbers 0 … rows-1 of the training file among train and the splits without a file.

    The sizes are those of `split_sizes`; all rows are for training if both others are given. `shuffled` draws rows with
    the seed, `positional` takes them from the end; in both cases a split keeps the order of the file. With `strata`, an
    int64 for each row, drawn splits are stratified; strata that are too rare to divide go to training.
    """
    sizes = split_sizes(rows, given)
    if len(sizes) == 1:
        return {"train": np.arange(rows)}
    order = np.arange(rows) if how == "positional" else np.random.default_rng(seed).permutation(rows)
    if strata is not None and how == "shuffled":
        order = _interleaved(order, strata)
    parts, start = {}, 0
    for split, size in sizes.items():
        parts[split] = order[start : start + size]
        start += size
    for part in parts.values():
        part.sort()  # in place, because a copy of a large file's row numbers takes much memory
    return parts


def _interleaved(order: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Reorder rows so that any range has each stratum in proportion; rare strata come first."""
    by_stratum = order[np.argsort(strata[order], kind="stable")]
    values = strata[by_stratum]
    starts = np.concatenate(([0], np.flatnonzero(values[1:] != values[:-1]) + 1))
    sizes = np.diff(np.append(starts, len(order)))
    rank = np.arange(len(order)) - np.repeat(starts, sizes)
    return by_stratum[np.argsort(rank / np.repeat(sizes, sizes), kind="stable")]
