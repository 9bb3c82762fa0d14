"""BLEU of each length, chrF and length equal sacreBLEU's; the user's choice of metrics is checked."""

import math
import random

import pytest
import sacrebleu
from transformers.data.metrics.squad_metrics import compute_f1

from steps.errors import UserError
from steps.evaluate.gate import judge
from steps.params.evaluation import EvaluationParams
from steps.params.evaluation_config import EvaluationOptions
from steps.params.metrics import WRITTEN, WrittenMetrics, direction_of
from steps.params.pipelines import PARAMETER_MODELS
from steps.params.reading import choices_of
from steps.scoring.scored import choose_metrics
from steps.scoring.text_metrics import generated_length, score_texts

WORDS = ["the", "cat", "sat", "on", "a", "mat", ",", "und", "der", "Hund", "lief", "42", "%", "weit", "."]


def drawn(seed: int) -> tuple[list[str], list[str]]:
    chance = random.Random(seed)
    references = [" ".join(chance.choices(WORDS, k=chance.randint(4, 15))) for _ in range(40)]
    answers = [" ".join(word for word in row.split() if chance.random() < 0.8) for row in references]
    return answers, references


@pytest.mark.parametrize("seed", range(3))
def test_bleu_of_each_length_and_chrf_are_those_of_sacrebleu(seed):
    answers, references = drawn(seed)
    scores = score_texts(answers, references)
    for order in (1, 2, 3, 4):
        bleu = sacrebleu.BLEU(max_ngram_order=order, smooth_method="none")
        assert scores[f"bleu_{order}"] == pytest.approx(bleu.corpus_score(answers, [references]).score)
    assert scores["chrf"] == sacrebleu.CHRF().corpus_score(answers, [references]).score
    assert scores["bleu_4"] == pytest.approx(scores["bleu"])  # nothing to smooth when every length has a match


def test_bleu_by_hand_with_its_brevity_penalty():
    scores = score_texts(["the cat sat"], ["the cat lay down"])
    penalty = math.exp(1 - 4 / 3)  # three words for four
    assert scores["bleu_1"] == pytest.approx(100 * penalty * 2 / 3)
    assert scores["bleu_2"] == pytest.approx(100 * penalty * math.sqrt(2 / 3 * 1 / 2))
    assert scores["bleu_3"] == scores["bleu_4"] == 0  # no three words in a row are right, and nothing is smoothed


@pytest.mark.parametrize("seed", range(3))
def test_word_f1_is_the_mean_over_rows_of_that_of_squad(seed):
    answers, references = drawn(seed)
    answers += ["The cat, the cat!", "", "the", "Hund"]
    references += ["a cat", "weit", "a", "Der Hund."]
    rows = [compute_f1(reference, answer) for answer, reference in zip(answers, references, strict=True)]
    assert score_texts(answers, references)["word_f1"] == pytest.approx(100 * sum(rows) / len(rows))
    assert 0 < min(row for row in rows if row) < max(rows) == 1


def test_word_f1_leaves_out_what_evaluation_config_ignores():
    answers, references = ["Answer: cat 7"], ["Reply: cat"]
    assert score_texts(answers, references)["word_f1"] == pytest.approx(100 * 2 * 1 / 5)
    options = EvaluationOptions(regexes_to_ignore=["^[A-Z][a-z]+: "], ignore_numbers=True)
    assert score_texts(answers, references, options)["word_f1"] == 100


def test_empty_answers_score_0():
    scores = score_texts(["", ""], ["something", "else"])
    assert set(scores.values()) == {0.0}


def test_generated_length_is_the_mean_number_of_tokens():
    assert generated_length([3, 0, 9]) == {"gen_len": 4.0}
    assert direction_of("gen_len") is None


def test_more_of_word_f1_is_better_and_judge_says_so():
    assert direction_of("word_f1") is True
    verdict = judge(EvaluationParams(gate_metric="word_f1", gate_min_value=50), {"word_f1": 60.0}, {"word_f1": 70.0})
    assert verdict.passed
    assert not judge(EvaluationParams(gate_metric="word_f1"), {"word_f1": 70.0}, {"word_f1": 60.0}).passed


def test_every_metric_of_texts_has_a_direction_and_can_be_gated():
    measured = set(score_texts(["a b"], ["a b"])) | {"loss", "perplexity"}
    assert measured == set(WRITTEN)
    written = [name for name, model in PARAMETER_MODELS.items() if issubclass(model, WrittenMetrics)]
    assert {"chat_completion", "text_generation", "summarization", "translation"} <= set(written)
    for pipeline in written:
        assert set(choices_of(PARAMETER_MODELS[pipeline].model_fields["gate_metric"])) == measured, pipeline
    for metric in measured:
        assert EvaluationParams(gate_metric=metric).gate_metric == metric  # as evaluate is told it


def test_an_unknown_metric_has_no_direction():
    with pytest.raises(KeyError):
        direction_of("f2_macro")


MEASURED = {"accuracy": 0.9, "f1_macro": 0.8, "mcc": 0.7, "AUC_weighted": 0.6}


def test_all_metrics_are_taken_when_none_is_named():
    assert choose_metrics(MEASURED, []) == MEASURED


def test_named_metrics_are_taken_in_the_order_in_which_they_were_measured():
    assert list(choose_metrics(MEASURED, ["mcc", "accuracy"]).items()) == [("accuracy", 0.9), ("mcc", 0.7)]


def test_names_of_other_systems_mean_ours():
    chosen = choose_metrics(MEASURED, ["matthews_correlation", "f1_score_macro", "AUC_weighted"])
    assert chosen == {"mcc": 0.7, "f1_macro": 0.8, "AUC_weighted": 0.6}
    assert choose_metrics({"exact": 50.0, "f1": 60.0}, ["exact_match", "f1_score"]) == {
        "exact": 50.0, "f1": 60.0
    }  # fmt: skip
    assert choose_metrics({"exact_match": 0.5}, ["exact_match"]) == {"exact_match": 0.5}


def test_every_unknown_metric_is_refused_with_the_nearest():
    with pytest.raises(UserError) as error:
        choose_metrics(MEASURED, ["acuracy", "mcc", "f1_score_makro", "speed"])
    assert error.value.exit_code == 2
    assert [problem.found for problem in error.value.problems] == ["'acuracy'", "'f1_score_makro'", "'speed'"]
    assert [problem.fix for problem in error.value.problems] == [
        "did you mean accuracy?",
        "did you mean f1_macro?",
        "use a name from that list, or leave it out",
    ]
    assert "EVAL-E0205 evaluation_config: metrics: found 'acuracy'; expected one of accuracy, f1_macro" in str(
        error.value
    )
