"""Answers are scored by SQuAD 2.0's rules, and spans are selected as by an exhaustive search."""

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
from transformers.data.metrics import squad_metrics as peer

from steps.errors import NumericError
from steps.params.metrics import direction_of
from steps.scoring.answer_metrics import normalised, score_answers
from steps.scoring.answer_spans import Window, postprocess

WORDS = ["The", "cat", "a", "sat", "on", "U.S.", "mat!", "an", "", "Paris", "théâtre", "42", "-"]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The  Cat!", "cat"),
        ("an apple a day", "apple day"),
        ("U.S.A.", "usa"),
        ("another theatre", "another theatre"),  # articles are whole words
        (" \t\n", ""),
        ("the", ""),
        ("a-b", "ab"),  # the hyphen goes first, so that no article is left
        ("«Ärger»", "«ärger»"),  # only ASCII punctuation
    ],
)
def test_answers_are_normalised_as_squad_does(text, plain):
    assert normalised(text) == plain == peer.normalize_answer(text)


def test_four_questions_worked_out_by_hand():
    predicted = ["the Eiffel tower", "Paris France", "", "London"]
    references = [["Eiffel Tower"], ["Lyon", "Paris"], [], []]
    # exact: yes, no, yes, no. F1: 1; 2 words against 1, one common: 2*1/(2+1); 1; 0.
    assert score_answers(predicted, references) == pytest.approx({
        "exact": 50, "f1": 100 * (1 + 2 / 3 + 1) / 4, "total": 4,
        "HasAns_exact": 50, "HasAns_f1": 100 * (1 + 2 / 3) / 2, "HasAns_total": 2,
        "NoAns_exact": 50, "NoAns_f1": 50, "NoAns_total": 2,
    })  # fmt: skip
    # London is doubted most: without it, three questions are right, and nothing below 0.6 is lost.
    doubts = [0.1, 0.2, 0.9, 0.7]
    best = score_answers(predicted, references, doubts)
    assert (best["best_exact"], best["best_exact_thresh"]) == (75, 0.1)
    assert (best["best_f1"], best["best_f1_thresh"]) == (pytest.approx(100 * (1 + 2 / 3 + 2) / 4), 0.2)
    assert score_answers(predicted, references, doubts, no_answer_threshold=0.5)["NoAns_exact"] == 100
    assert score_answers(predicted, references, doubts, no_answer_threshold=0.15)["HasAns_f1"] == 50
    assert score_answers(["a b"], [["a b"]], [0.25], no_answer_threshold=0.25)["exact"] == 100  # not above it


def text(chance):
    return " ".join(chance.choice(WORDS) for _ in range(chance.randint(0, 4)))


@pytest.mark.parametrize("threshold", [1.0, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_answers_are_judged_like_the_official_script(seed, threshold):
    chance = random.Random(seed)
    references = [[text(chance) for _ in range(chance.choice([0, 1, 1, 3]))] for _ in range(200)]
    predicted = [chance.choice([text(chance), *right]) for right in references]
    doubts = [chance.random() for _ in references]
    examples = [
        SimpleNamespace(qas_id=str(row), answers=[{"text": text} for text in right])
        for row, right in enumerate(references)
    ]
    official = peer.squad_evaluate(
        examples,
        {str(row): answer for row, answer in enumerate(predicted)},
        {str(row): doubt for row, doubt in enumerate(doubts)},
        threshold,
    )
    assert score_answers(predicted, references, doubts, threshold) == pytest.approx(dict(official))


def test_only_questions_that_exist_are_counted():
    values = score_answers(["x"], [["x"]])
    assert values == {"exact": 100, "f1": 100, "total": 1, "HasAns_exact": 100, "HasAns_f1": 100, "HasAns_total": 1}


def test_every_metric_of_answers_has_a_direction():
    values = score_answers(["x", ""], [["x"], []], [0.1, 0.9])
    undirected = {name for name in values if direction_of(name) is None}
    assert undirected == {"total", "HasAns_total", "NoAns_total", "best_exact_thresh", "best_f1_thresh"}
    assert len(values) == 13


@pytest.mark.parametrize(
    ("predicted", "references", "doubts"),
    [([], [], None), (["x"], [], None), (["x"], [["x"]], [0.1, 0.2]), (["x"], [["x"]], [math.nan])],
)
def test_lists_that_do_not_match_raise(predicted, references, doubts):
    with pytest.raises(ValueError, match=r"question|argument"):
        score_answers(predicted, references, doubts)


CONTEXT = "Ada wrote notes in 1843."
OFFSETS = [None, None, (0, 3), (4, 9), (10, 15), (16, 18), (19, 23), (23, 24)]  # CLS, question, six tokens


def window(start: dict[int, float], end: dict[int, float], offsets=OFFSETS) -> Window:
    logits = [np.full(len(offsets), -10.0), np.full(len(offsets), -10.0)]
    for row, given in zip(logits, (start, end), strict=True):
        row[list(given)] = list(given.values())
    return Window(*logits, offsets)


def test_the_best_span_wins_over_a_weak_no_answer():
    answer = postprocess(CONTEXT, [window({0: 1, 4: 5, 6: 4}, {0: 1, 4: 3, 6: 6})])
    # Starts 4 and 6, ends 4 and 6: 4..6 has 11, 6..6 has 10, 4..4 has 8, no answer 2; 6..4 runs backwards.
    assert [(one.text, one.score) for one in answer.candidates[:4]] == [
        ("notes in 1843", 11), ("1843", 10), ("notes", 8), ("", 2)
    ]  # fmt: skip
    assert answer.text == "notes in 1843"
    assert answer.candidates[0].place == 10
    assert answer.null_score_difference == 2 - 11
    assert answer.no_answer_probability == pytest.approx(1 / (1 + math.exp(9)))
    assert sum(one.probability for one in answer.candidates) == pytest.approx(1)
    assert answer.candidates[0].probability / answer.candidates[1].probability == pytest.approx(math.e)


def test_a_span_is_no_longer_than_allowed():
    long = window({4: 5, 6: 4}, {4: 3, 6: 6})
    assert postprocess(CONTEXT, [long], max_answer_length_in_tokens=3).text == "notes in 1843"
    assert postprocess(CONTEXT, [long], max_answer_length_in_tokens=2).text == "1843"


def test_question_and_special_tokens_are_never_an_answer():
    answer = postprocess(CONTEXT, [window({1: 9, 2: 1}, {1: 9, 2: 1, 3: 0})], may_have_no_answer=False)
    assert answer.text == "Ada"
    assert answer.null_score_difference is None
    assert answer.no_answer_probability == 0
    assert all(one.text for one in answer.candidates)


def test_no_answer_wins_only_by_more_than_the_threshold():
    unsure = [window({0: 5, 2: 4}, {0: 4, 2: 3})]  # 9 against 7
    assert postprocess(CONTEXT, unsure).text == ""
    assert postprocess(CONTEXT, unsure).no_answer_probability > 0.5
    assert postprocess(CONTEXT, unsure, null_score_threshold=2.0).text == "Ada"
    assert postprocess(CONTEXT, unsure, null_score_threshold=1.9).text == ""
    assert postprocess(CONTEXT, unsure, may_have_no_answer=False).text == "Ada"


def test_the_window_with_the_answer_outvotes_those_without():
    elsewhere = window({0: 9}, {0: 9})
    found = window({0: 1, 6: 5}, {0: 1, 6: 5})
    answer = postprocess(CONTEXT, [elsewhere, found, elsewhere])
    assert answer.text == "1843"
    assert answer.null_score_difference == 2 - 10


def test_another_token_may_stand_for_no_answer():
    offsets = [*OFFSETS[2:], None]  # the last one, as in models that read from the left
    logits = np.array([1.0, 0, 0, 0, 0, 0, 3])
    assert postprocess(CONTEXT, [Window(logits, logits, offsets, null_position=6)]).text == ""


def test_a_question_without_any_span_has_no_answer():
    nothing = [window({}, {}, offsets=[None] * 4)]
    for answer in (postprocess(CONTEXT, nothing), postprocess(CONTEXT, [])):
        assert answer.text == ""
    assert postprocess(CONTEXT, nothing).no_answer_probability == 1
    assert postprocess(CONTEXT, nothing, may_have_no_answer=False).candidates == ()


def test_no_answer_stays_among_a_few_candidates():
    answer = postprocess(CONTEXT, [window({0: -9, 4: 5, 6: 4}, {0: -9, 4: 3, 6: 6})], n_best_size=2)
    assert [one.text for one in answer.candidates] == ["notes in 1843", ""]


def test_half_precision_logits_do_not_overflow():
    big = np.array([0, 60000, 60000], dtype=np.float16)
    assert postprocess("a b", [Window(big, big, [None, (0, 1), (2, 3)])]).candidates[0].score == 2 * float(big[1])


def test_logits_that_are_no_numbers_are_refused():
    with pytest.raises(NumericError, match="EVAL-E0603 end logits"):
        postprocess(CONTEXT, [window({2: 1}, {2: math.nan})])


@pytest.mark.parametrize("seed", range(5))
def test_random_windows_give_what_a_search_over_all_spans_gives(seed):
    generator = np.random.default_rng(seed)
    context = "".join(generator.choice(list("abcd "), 200))
    windows, spans, nulls = [], [], []
    for first in (0, 30, 60):
        offsets = [None, None, *((4 * token, 4 * token + 4) for token in range(first // 4, first // 4 + 20))]
        start, end = generator.normal(size=(2, 22))
        windows.append(Window(start, end, offsets))
        nulls.append(start[0] + end[0])
        for left in range(2, 22):
            for right in range(left, min(left + 5, 22)):
                spans.append((start[left] + end[right], context[offsets[left][0] : offsets[right][1]]))
    spans.sort(reverse=True)
    answer = postprocess(context, windows, n_best_size=200, max_answer_length_in_tokens=5)
    assert [one.score for one in answer.candidates if one.place >= 0] == [score for score, _ in spans[:199]]
    assert answer.null_score_difference == pytest.approx(min(nulls) - spans[0][0])
    assert answer.text == (spans[0][1] if min(nulls) <= spans[0][0] else "")
    assert postprocess(context, windows, max_answer_length_in_tokens=5).text == answer.text
