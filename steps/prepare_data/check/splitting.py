"""Divide training rows into a training part and held-out splits."""

from __future__ import annotations

from typing import Literal

import numpy as np

SPLITS = ("train", "validation", "test")

# Which other files were given → percent of the training file that stays in train, and percent at which test begins.
EDGES = {
    frozenset[str](): (80, 90),
    frozenset({"test"}): (80, 100),
    frozenset({"validation"}): (80, 80),
}


def split_rows(
    rows: int, given: set[str], how: Literal["shuffled", "positional"], seed: int, strata: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Divide the row numbers 0 … rows-1 of the training file among train and the splits without a file.

    80/10/10, or 80/20 if one of the two others is given; all rows are for training if both are. `shuffled` draws rows
    with the seed, `positional` takes them from the end; in both cases a split keeps the order of the file. Sizes are
    rounded to the nearest row, and no missing split is empty if there are enough rows. With `strata`, an int64 for each
    row, drawn splits are stratified; strata that are too rare to divide go to training.
    """
    missing = [split for split in SPLITS[1:] if split not in given]
    if not missing:
        return {"train": np.arange(rows)}
    first, second = (round(edge * rows / 100) for edge in EDGES[frozenset(given)])
    sizes = {"validation": second - first, "test": rows - second}
    held_out = {split: max(1, sizes[split]) for split in missing}
    order = np.arange(rows) if how == "positional" else np.random.default_rng(seed).permutation(rows)
    if strata is not None and how == "shuffled":
        order = _interleaved(order, strata)
    train = max(0, rows - sum(held_out.values()))
    parts, start = {"train": order[:train]}, train
    for split in missing:
        parts[split] = order[start : start + held_out[split]]
        start += held_out[split]
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
