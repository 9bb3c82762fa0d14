"""Metrics of preferences, with expected values calculated by hand."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steps.errors import UserError
from steps.evaluate.preferred import compare
from steps.params.settings import EvaluationSettings
from steps.scoring.preference_metrics import Likely, score_pairs, score_rated


def likely(*logps: float, tokens: int = 2) -> Likely:
    return Likely(np.array(logps), np.full(len(logps), tokens))


def test_a_pair_is_right_when_the_better_answer_gained_more():
    base = {"chosen": likely(-4.0, -4.0), "rejected": likely(-2.0, -8.0, tokens=4)}
    tuned = {"chosen": likely(-3.0, -6.0), "rejected": likely(-4.0, -8.0, tokens=4)}
    scores = score_pairs(tuned, base, beta=0.5)
    margins = (0.5 * (1 - -2), 0.5 * (-2 - 0))
    assert scores["reward_margin"] == pytest.approx(sum(margins) / 2)
    assert scores["reward_accuracy"] == 0.5
    assert scores["loss"] == pytest.approx(sum(math.log(1 + math.exp(-margin)) for margin in margins) / 2)
    assert scores["preference_accuracy"] == 1.0
    assert scores["preference_accuracy_per_token"] == 0.0  # -1.5 and -3 against -1 and -2
    assert scores["chosen_loss"] == pytest.approx(9 / 4)
    assert scores["rejected_loss"] == pytest.approx(12 / 8)


def test_a_model_that_learned_nothing_is_right_in_half_of_the_rows():
    base = {"chosen": likely(-1.0, -2.0), "rejected": likely(-3.0, -4.0)}
    scores = score_pairs(base, base, beta=0.1)
    assert (scores["reward_accuracy"], scores["reward_margin"]) == (0.5, 0.0)
    assert scores["loss"] == pytest.approx(math.log(2))
    rated = score_rated(base["chosen"], base["chosen"], np.array([True, False]), beta=0.1)
    assert (rated["reward_accuracy"], rated["reward_auc"], rated["reward_margin"]) == (0.5, 0.5, 0.0)
    assert rated["loss"] == pytest.approx(math.log(2))


def test_rated_answers_are_told_apart_over_all_rows():
    good = np.array([True, True, False, False])
    scores = score_rated(likely(-1.0, -5.0, -4.0, -9.0), likely(-2.0, -3.0, -3.0, -3.0), good, beta=1.0)
    rewards = (1, -2, -1, -6)
    assert scores["reward_auc"] == 0.75  # of four pairs only -2 against -1 is the wrong way round
    assert scores["reward_margin"] == pytest.approx((1 - 2) / 2 - (-1 - 6) / 2)
    assert scores["reward_accuracy"] == 0.75
    signs = (1, 1, -1, -1)
    assert scores["loss"] == pytest.approx(
        sum(math.log(1 + math.exp(-sign * reward)) for sign, reward in zip(signs, rewards, strict=True)) / 4
    )
    assert scores["preference_auc"] == 0.75


def test_answers_of_one_kind_have_no_numbers_between_kinds():
    scores = score_rated(likely(-1.0), likely(-2.0), np.array([True]), beta=1.0)
    assert scores.keys() == {"loss", "reward_accuracy"}


@pytest.mark.parametrize("metric", ["reward_auc", "preference_auc", "reward_margin"])
def test_a_gate_that_tells_answers_apart_needs_both_kinds_before_a_model_is_loaded(tmp_path, metric):
    tables = {
        "rows": pa.table({"prompt": ["a", "b"]}),
        "tokens": pa.table({"prompt_ids": [[1], [1]], "completion_ids": [[2], [3]], "label": [True, True]}),
    }
    for name, table in tables.items():
        (tmp_path / name).mkdir()
        pq.write_table(table, tmp_path / name / "test.parquet")
    settings = EvaluationSettings(task="kto", method="kto", evaluation={"gate_metric": metric})
    with pytest.raises(UserError, match=f"EVAL-E0208 gate_metric: found {metric} for test rows that are all good"):
        compare(settings, tmp_path / "base", tmp_path / "tuned", tmp_path)
