"""Order the rows of several sources that are mixed by weight."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

MIXING_SEED = 19851243
DRAWS_AT_ONCE = 1 << 16


def mix(counts: Sequence[int], weights: Sequence[float], seed: int = MIXING_SEED) -> np.ndarray:
    """Order the rows of several sources; returns int64 pairs (source, row), one for each row of the mixture.

    If all weights are 1.0, sources alternate: 0, 1, …, 0, 1, … Otherwise weights are normalised to probabilities, and a
    source is drawn for each row; weight 0 leaves a source out. In both cases the mixture ends when every source is
    exhausted, and a source that is exhausted earlier starts again from its first row.
    Raises ValueError for a negative weight, for weights that are all 0 and for a source without rows.
    """
    if len(counts) != len(weights) or not counts:
        raise ValueError(f"{len(counts)} sources, {len(weights)} weights")
    if any(weight < 0 or not math.isfinite(weight) for weight in weights) or not any(weights):
        raise ValueError(f"weights {list(weights)}: they must not be negative, and not all 0")
    used = [source for source, weight in enumerate(weights) if weight]
    sizes = np.array([counts[source] for source in used], np.int64)
    if not sizes.all():
        raise ValueError(f"a source without rows: {list(counts)}")
    if all(weights[source] == 1.0 for source in used):
        order = _turns(sizes)
    else:
        chances = np.array([weights[source] for source in used], np.float64)
        order = _draws(sizes, chances / chances.sum(), seed)
    order[:, 0] = np.array(used, np.int64)[order[:, 0]]
    return order


def mix_rows(sources: np.ndarray, weights: Sequence[float], seed: int = MIXING_SEED) -> np.ndarray:
    """Order rows by their sources; returns int64 positions in `sources`, which may repeat.

    `sources` holds the source of each row as an index of `weights`, in any order, so that rows can be left out or held
    out before they are mixed. Raises as `mix`.
    """
    counts = np.bincount(sources, minlength=len(weights))
    order = mix(counts.tolist(), weights, seed)
    by_source = np.argsort(sources, kind="stable")
    return np.asarray(by_source[(np.cumsum(counts) - counts)[order[:, 0]] + order[:, 1]], np.int64)


def _turns(sizes: np.ndarray) -> np.ndarray:
    """Take one row of each source in turn until the largest source is exhausted."""
    rounds, sources = int(sizes.max()), len(sizes)
    rows = np.arange(rounds, dtype=np.int64)[:, None] % sizes
    return np.stack([np.tile(np.arange(sources, dtype=np.int64), rounds), rows.ravel()], axis=1)


def _draws(sizes: np.ndarray, chances: np.ndarray, seed: int) -> np.ndarray:
    """Draw a source for each row until all are exhausted; the row that exhausts the last one is the last row."""
    generator = np.random.default_rng(seed)
    drawn: list[np.ndarray] = []
    seen = np.zeros(len(sizes), np.int64)
    while (seen < sizes).any():
        drawn.append(generator.choice(len(sizes), size=DRAWS_AT_ONCE, p=chances))
        seen += np.bincount(drawn[-1], minlength=len(sizes))
    sources = np.concatenate(drawn).astype(np.int64)
    places = [np.flatnonzero(sources == source) for source in range(len(sizes))]
    end = 1 + max(int(places[source][size - 1]) for source, size in enumerate(sizes))
    order = np.stack([sources[:end], np.zeros(end, np.int64)], axis=1)
    for source, size in enumerate(sizes):
        own = places[source][places[source] < end]
        order[own, 1] = np.arange(len(own)) % size
    return order
