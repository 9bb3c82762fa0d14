"""mrr and nDCG of rankings agree with scikit-learn and with sums by hand; a constant score gains nothing."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from steps.evaluate.gate import judge
from steps.params.evaluation import EvaluationParams
from steps.params.metrics import RANKED, RankingMetrics, direction_of
from steps.params.reading import choices_of
from steps.scoring.classification_metrics import score_labels
from steps.scoring.ranking_metrics import score_pairs_of_rows, score_rankings

QUERIES, CANDIDATES = 40, 14


def drawn(seed: int, relevant: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Judgements and scores, (queries, candidates); few levels make ties."""
    chance = np.random.default_rng(seed)
    found = np.argsort(chance.random((QUERIES, CANDIDATES)), axis=1) < relevant
    return found, (chance.integers(0, levels, found.shape) + found) / levels


def scored(found: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Measure them in the order of a file that mixes the queries."""
    queries = np.repeat(np.arange(len(found)), found.shape[1])
    order = np.random.default_rng(9).permutation(found.size)
    return score_rankings([f"q{n}" for n in queries[order]], found.ravel()[order], scores.ravel()[order]).values


@pytest.mark.parametrize("relevant", [1, 3, 12])
def test_ndcg_is_that_of_scikit_learn(relevant):
    found, scores = drawn(relevant, relevant, 10**9)
    assert scored(found, scores)["ndcg_10"] == pytest.approx(ndcg_score(found, scores, k=10))


@pytest.mark.parametrize("levels", [2, 5, 10**9])
def test_mrr_of_one_relevant_candidate_is_the_ranking_precision_of_scikit_learn_ties_included(levels):
    found, scores = drawn(levels, 1, levels)
    assert scored(found, scores)["mrr"] == pytest.approx(label_ranking_average_precision_score(found, scores))


def test_of_equal_scores_the_relevant_candidate_comes_last_in_ndcg_too():
    found, scores = drawn(4, 3, 4)
    lowered = scores - 1e-9 * found
    assert scored(found, scores)["ndcg_10"] == pytest.approx(ndcg_score(found, lowered, k=10))
    assert scored(found, scores)["ndcg_10"] < ndcg_score(found, scores, k=10)  # which takes the mean over ties


def test_by_hand():
    queries = ["a", "b", "a", "b", "a", "c"]
    relevant = np.array([False, True, True, False, True, False])
    scores = np.array([0.9, 0.4, 0.8, 0.4, 0.1, 1.0])
    told = score_rankings(queries, relevant, scores)
    # a: relevant at ranks 2 and 3. b: a tie, so rank 2. c: nothing is relevant.
    second, third = 1 / np.log2(3), 1 / np.log2(4)
    assert told.values["mrr"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert told.values["ndcg_10"] == pytest.approx(((second + third) / (1 + second) + second) / 2)
    assert told.remarks == ("mrr and ndcg_10 leave out queries without a relevant candidate: 1",)


def test_a_constant_score_gets_the_worst_rank():
    queries, relevant = ["a"] * 10 + ["b"] * 4, np.arange(14) % 10 == 0
    assert score_rankings(queries, relevant, np.full(14, 0.7)).values["mrr"] == pytest.approx((1 / 10 + 1 / 4) / 2)


def test_what_no_model_can_rank_wrong_is_told():
    told = score_rankings(["a", "b", "b"], np.array([True, True, False]), np.array([0.1, 0.1, 0.2]))
    assert told.values["mrr"] == pytest.approx((1 + 1 / 2) / 2)
    assert told.remarks == ("queries whose candidates are all relevant, which every model ranks right: 1",)


def test_without_a_relevant_candidate_there_is_no_value():
    told = score_rankings(["a", "a"], np.array([False, False]), np.array([0.1, 0.2]))
    assert told.values == {}
    assert told.undefined.keys() == {"mrr", "ndcg_10"}
    with pytest.raises(ValueError, match="0 queries"):
        score_rankings([], np.array([]), np.array([]))
    with pytest.raises(ValueError, match="1 queries, 2 judgements"):
        score_rankings(["a"], np.array([True, False]), np.array([0.1, 0.2]))


def test_rows_are_ranked_by_the_probability_of_being_relevant():
    rows = pa.table({"sentence1": ["a", "a", "b", "b"], "labels": [["0"], ["1"], ["1"], ["0"]]})
    likely = np.array([0.1, 0.9, 0.2, 0.3])
    probabilities = np.stack([1 - likely, likely], axis=1)
    assert score_pairs_of_rows(rows, probabilities, ["0", "1"]).values["mrr"] == pytest.approx((1 + 1 / 2) / 2)
    assert score_pairs_of_rows(rows, probabilities[:, ::-1], ["1", "0"]).values["mrr"] == pytest.approx(3 / 4)


def test_every_choice_is_measured_and_more_of_it_is_better():
    choices = choices_of(RankingMetrics.model_fields["gate_metric"])
    measured = set(score_labels(["1", "0"], ["1", "0"], np.array([[0.1, 0.9], [0.8, 0.2]]), ["0", "1"]).values)
    measured |= set(score_rankings(["a", "a"], np.array([True, False]), np.array([0.9, 0.2])).values)
    assert set(choices) == set(RANKED) <= measured | {"loss"}
    for metric in ("mrr", "ndcg_10"):
        assert direction_of(metric) is True
        gate = EvaluationParams(gate_metric=metric, gate_min_value=0.5)
        assert judge(gate, {metric: 0.5}, {metric: 0.6}).passed
        assert not judge(gate, {metric: 0.5}, {metric: 0.4}).passed
