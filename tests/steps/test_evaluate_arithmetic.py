"""The parts of evaluate that need no model: batching, gate, text metrics."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sacrebleu
from rouge_score import rouge_scorer, scoring

from steps.errors import NumericError, UserError
from steps.evaluate.gate import judge, refuse_unmeasurable
from steps.evaluate.held_out import Measured, first_rows
from steps.evaluate.metrics import refuse_non_finite, score
from steps.generation.batching import batches
from steps.params.evaluation import EvaluationParams
from steps.params.metrics import WRITTEN, direction_of
from steps.params.settings import EvaluationSettings
from steps.scoring.text_metrics import score_texts

ANSWERS = ["Paris is the capital of France.", "the quick brown foxes jumped over dogs", " 42\n", "", "one\ntwo three"]
REFERENCES = [
    "Paris is the capital of France.",
    "The quick brown fox jumps over the lazy dog",
    "42",
    "something",
    "one two\nthree four",
]


def test_text_metrics_are_those_of_sacrebleu_and_rouge_score():
    scores = score_texts(ANSWERS, REFERENCES)
    assert scores["exact_match"] == 2 / 5
    assert scores["bleu"] == sacrebleu.BLEU().corpus_score(ANSWERS, [REFERENCES]).score
    for name in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
        scorer = rouge_scorer.RougeScorer([name], use_stemmer=True)
        rows = [scorer.score(target=r, prediction=a)[name].fmeasure for a, r in zip(ANSWERS, REFERENCES, strict=True)]
        assert scores[name] == pytest.approx(100 * np.mean(rows))


def test_rouge_agrees_with_the_librarys_own_aggregation_of_equal_rows():
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    aggregator = scoring.BootstrapAggregator()
    for _ in range(3):
        aggregator.add_scores(scorer.score("a b c d", "a c d e"))
    assert score_texts(["a c d e"] * 3, ["a b c d"] * 3)["rougeL"] == pytest.approx(
        100 * aggregator.aggregate()["rougeL"].mid.fmeasure
    )


def test_loss_is_weighted_by_tokens_and_not_by_rows():
    measured = Measured(np.array([8.0, 1.0]), np.array([4, 1]), [None, None])
    scores = score(measured, [None, None])
    assert scores == {"loss": 9 / 5, "perplexity": pytest.approx(np.exp(1.8))}


def test_a_row_without_a_question_counts_for_the_loss_only():
    measured = Measured(np.array([1.0, 1.0]), np.array([1, 1]), ["yes", None])
    assert score(measured, ["yes", None])["exact_match"] == 1.0


def test_a_loss_too_large_for_perplexity_is_refused_by_name():
    measured = Measured(np.array([5000.0]), np.array([1]), [None])
    with pytest.raises(NumericError, match="perplexity of the tuned model"):
        refuse_non_finite({"tuned": score(measured, [None])})


def test_every_non_finite_metric_is_named():
    with pytest.raises(NumericError) as error:
        refuse_non_finite({"base": {"loss": 1.0}, "tuned": {"loss": float("nan"), "perplexity": float("inf")}})
    assert error.value.exit_code == 6
    assert [problem.where for problem in error.value.problems] == [
        "loss of the tuned model",
        "perplexity of the tuned model",
    ]


@pytest.mark.parametrize("budget", [1, 7, 30, 1000])
def test_batches_hold_every_row_once_longest_first_and_stay_within_the_budget(budget):
    lengths = [3, 9, 1, 4, 4, 12, 2, 30, 5]
    groups = batches(lengths, budget)
    assert sorted(itertools.chain(*groups)) == list(range(len(lengths)))
    in_order = [lengths[row] for group in groups for row in group]
    assert in_order == sorted(lengths, reverse=True)
    assert all(len(group) == 1 or len(group) * max(lengths[row] for row in group) <= budget for group in groups)


# metric, bounds, must beat base, base, tuned → passed, a word of the reason
GATES = [
    ("loss", {}, True, 2.0, 1.0, True, "beats the base model's 2"),
    ("loss", {}, True, 2.0, 2.0, False, "does not beat"),
    ("loss", {}, True, 2.0, 3.0, False, "less is better"),
    ("loss", {}, False, 2.0, 3.0, True, "no bound was set"),
    ("loss", {"gate_max_value": 1.5}, True, 2.0, 1.6, False, "above gate_max_value 1.5"),
    ("loss", {"gate_max_value": 1.5}, True, 2.0, 1.5, True, "stays within gate_max_value 1.5"),
    ("loss", {"gate_max_value": 0.0}, False, 2.0, 0.1, False, "above gate_max_value 0"),
    ("perplexity", {}, True, 7.4, 2.7, True, "perplexity 2.7"),
    ("exact_match", {}, True, 0.1, 0.9, True, "beats the base model's 0.1"),
    ("exact_match", {}, True, 0.9, 0.1, False, "more is better"),
    ("exact_match", {}, True, 0.5, 0.5, False, "does not beat"),
    ("exact_match", {"gate_min_value": 0.8}, False, 0.0, 0.8, True, "reaches gate_min_value 0.8"),
    ("exact_match", {"gate_min_value": 0.8}, False, 0.0, 0.79, False, "below gate_min_value 0.8"),
    ("bleu", {"gate_min_value": 30}, True, 40.0, 20.0, False, "below gate_min_value 30 and does not beat"),
    ("loss", {}, False, 2.0, float("nan"), False, "not a finite number"),
    ("loss", {"gate_max_value": 9}, True, 2.0, float("nan"), False, "not a finite number"),
    ("exact_match", {"gate_min_value": 0.1}, True, 0.0, float("nan"), False, "not a finite number"),
    ("loss", {}, True, 0.123456, 0.123454, True, "0.123454"),
]


@pytest.mark.parametrize(("metric", "bounds", "must_beat", "base", "tuned", "passed", "word"), GATES)
def test_the_gate(metric, bounds, must_beat, base, tuned, passed, word):
    gate = EvaluationParams(gate_metric=metric, gate_must_beat_base=must_beat, **bounds)
    verdict = judge(gate, {metric: base}, {metric: tuned})
    assert (verdict.passed, verdict.base) == (passed, base)
    assert word in verdict.reason
    assert verdict.reason.endswith(".")
    assert verdict.reason.startswith("Passed" if passed else "Not passed")


@pytest.mark.parametrize("metric", WRITTEN)
def test_a_better_model_passes_and_a_worse_one_does_not_for_every_metric(metric):
    gate = EvaluationParams(gate_metric=metric)
    better, worse = ({metric: 0.9}, {metric: 0.1}) if direction_of(metric) else ({metric: 0.1}, {metric: 0.9})
    assert judge(gate, base=worse, tuned=better).passed
    assert not judge(gate, base=better, tuned=worse).passed


def test_a_gate_on_answers_is_refused_before_measuring_rows_without_answers():
    with pytest.raises(UserError, match="gate_metric"):
        refuse_unmeasurable(EvaluationParams(gate_metric="bleu"), answered=False)
    refuse_unmeasurable(EvaluationParams(gate_metric="bleu"), answered=True)
    refuse_unmeasurable(EvaluationParams(gate_metric="perplexity"), answered=False)


@pytest.mark.parametrize(("most", "count"), [(-1, 3), (1, 1), (2, 2), (9, 3)])
def test_no_more_rows_are_measured_than_asked_for(tmp_path, most, count):
    for name in ("rows", "tokens"):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"input_ids": [[1], [2], [3]]}), tmp_path / name / "test.parquet")
    for wanted, expected in ((most, count), (0, 0)):
        settings = EvaluationSettings(task="chat_completion", evaluation={"evaluation_max_rows": wanted})
        if expected:
            rows, tokens = first_rows(settings, tmp_path)
            assert rows["input_ids"].to_pylist() == tokens["input_ids"].to_pylist() == [[1], [2], [3]][:expected]
        else:
            with pytest.raises(UserError, match="EVAL-E0201 evaluation_max_rows"):
                first_rows(settings, tmp_path)


def test_a_prompt_that_is_too_long_keeps_what_stands_behind_its_text():
    from steps.generation.generating import _fitted

    ids = list(range(10))
    assert _fitted(ids, 10, 2) == ids
    assert _fitted(ids, 6, None) == [4, 5, 6, 7, 8, 9]
    assert _fitted(ids, 6, 2) == [0, 1, 2, 3, 8, 9]
    assert _fitted(ids, 6, 0) == [0, 1, 2, 3, 4, 5]  # nothing stands there
