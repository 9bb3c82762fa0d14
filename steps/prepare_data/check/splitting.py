"""Which rows are learned from and which are held out."""

from __future__ import annotations

from typing import Literal

import numpy as np

SPLITS = ("train", "validation", "test")

# Percent of the training file that stays in train, and where test begins, by which files were given.
EDGES = {
    frozenset[str](): (80, 90),
    frozenset({"test"}): (80, 100),
    frozenset({"validation"}): (80, 80),
}


def split_rows(
    rows: int, given: set[str], how: Literal["shuffled", "positional"], seed: int, strata: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Divide the row numbers 0 … rows-1 of the training file among the splits that have no file of their own.

    80/10/10, or 80/20 when one of the two others is given; all rows are for training when both are. `shuffled` draws
    rows with the seed, `positional` takes them from the end; either way a split keeps the order of the file. Sizes are
    rounded to the nearest row, and no missing split is left empty as long as there are rows for all. With `strata`,
    an int64 for each row, drawn splits hold equal shares of each; what is too rare to share is for training.
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
        part.sort()  # in place: a copy of a large file's row numbers is worth noticing
    return parts


def _interleaved(order: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Reorder rows so that any stretch holds each stratum in its share, and the first stretch the rare ones."""
    by_stratum = order[np.argsort(strata[order], kind="stable")]
    values = strata[by_stratum]
    starts = np.concatenate(([0], np.flatnonzero(values[1:] != values[:-1]) + 1))
    sizes = np.diff(np.append(starts, len(order)))
    rank = np.arange(len(order)) - np.repeat(starts, sizes)
    return by_stratum[np.argsort(rank / np.repeat(sizes, sizes), kind="stable")]
