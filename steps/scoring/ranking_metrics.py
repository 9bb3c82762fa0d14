"""Metrics of rankings: the candidates of a query, ordered by their scores.

Reciprocal rank: Voorhees, TREC-8 Question Answering Track Report (1999). nDCG: Järvelin and Kekäläinen, Cumulated
Gain-Based Evaluation of IR Techniques (2002), with the gain 1 of a relevant candidate and the discount
1 / log2(rank + 1).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from steps.scoring.scored import Scored

DEPTH = 10  # ranks that ndcg_10 looks at
RELEVANT = "1"


def score_rankings(queries: Sequence[Hashable], relevant: np.ndarray, scores: np.ndarray) -> Scored:
    """Return mrr and ndcg_10, means over queries from 0 to 1; the arguments have one value for each candidate.

    mrr is 1 / rank of the first relevant candidate, among all of its query. Of equal scores the relevant candidate
    comes last, so that a model that gives every candidate one score gains nothing. Queries without a relevant candidate
    are left out. Raises ValueError without candidates and for arguments of unequal length.
    """
    found, values = np.asarray(relevant, dtype=bool), np.asarray(scores, dtype=np.float64)
    if not len(found) or not len(queries) == len(found) == len(values):
        raise ValueError(f"{len(queries)} queries, {len(found)} judgements and {len(values)} scores")
    places: dict[Hashable, int] = {}
    owners = np.fromiter((places.setdefault(query, len(places)) for query in queries), np.int64, len(queries))
    order = np.lexsort((found, -values, owners))
    owner, hit = owners[order], found[order]
    sizes = np.bincount(owner)
    starts = np.cumsum(sizes) - sizes
    rank = np.arange(len(owner)) - starts[owner] + 1
    hits = np.bincount(owner, weights=hit).astype(np.int64)
    some = hits > 0
    remarks = _remarks(int((~some).sum()), int((hits == sizes).sum()))
    if not some.any():
        why = "no query has a relevant candidate"
        return Scored({}, {"mrr": why, "ndcg_10": why}, remarks=remarks)
    best = np.minimum.reduceat(np.where(hit, rank, len(rank) + 1), starts)
    gains = np.bincount(owner, weights=np.where(hit & (rank <= DEPTH), 1 / np.log2(rank + 1), 0))
    ideal = np.append(0, np.cumsum(1 / np.log2(np.arange(DEPTH) + 2)))[np.minimum(hits, DEPTH)]
    return Scored(
        {"mrr": float((1 / best[some]).mean()), "ndcg_10": float((gains[some] / ideal[some]).mean())}, remarks=remarks
    )


def score_pairs_of_rows(rows: Any, probabilities: np.ndarray, names: Sequence[str]) -> Scored:
    """Rank pairs by the probability of being relevant; the rows of one query are its candidates.

    `rows` is a table with the query in `sentence1` and the label in `labels`, `probabilities` has the shape
    (rows, classes), in the order of `names`.
    """
    relevant = np.array([labels == [RELEVANT] for labels in rows["labels"].to_pylist()])
    return score_rankings(rows["sentence1"].to_pylist(), relevant, probabilities[:, list(names).index(RELEVANT)])


def _remarks(without: int, all_relevant: int) -> tuple[str, ...]:
    told = []
    if without:
        told.append(f"mrr and ndcg_10 leave out queries without a relevant candidate: {without:,}")
    if all_relevant:
        told.append(f"queries whose candidates are all relevant, which every model ranks right: {all_relevant:,}")
    return tuple(told)
