"""Metrics of tags equal seqeval's, for every tagging scheme."""

import random
import warnings

import numpy as np
import pytest
from seqeval import metrics as peer
from seqeval.metrics import classification_report

from steps.params.metrics import direction_of
from steps.scoring.tag_metrics import score_tags

BIO = ["O", "O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG"]
AVERAGES = ("micro", "macro", "weighted")


def drawn(tags: list[str], seed: int, sentences: int = 60, right: float = 0.7):
    """True tags and those of a model that is right about this share of the words."""
    chance = random.Random(seed)
    true = [[chance.choice(tags) for _ in range(chance.randint(1, 12))] for _ in range(sentences)]
    said = [[tag if chance.random() < right else chance.choice(tags) for tag in row] for row in true]
    return true, said


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "tags",
    [BIO, ["O", "O", "I-PER", "I-LOC"], ["O", "B-PER", "I-PER", "E-PER", "S-PER", "S-LOC", "B-LOC", "E-LOC"]],
    ids=["BIO", "IO", "BIOES"],
)
def test_tag_metrics_are_those_of_seqeval(tags, seed):
    true, said = drawn(tags, seed)
    scored = score_tags(true, said)
    expected = {"accuracy": peer.accuracy_score(true, said)}
    for name in ("precision", "recall", "f1"):
        measure = getattr(peer, f"{name}_score")
        expected[name] = measure(true, said)
        expected |= {f"{name}_{average}": measure(true, said, average=average) for average in AVERAGES}
    assert scored.values == pytest.approx(expected)
    assert scored.undefined == {}
    assert all(direction_of(name) for name in scored.values)
    report = classification_report(true, said, output_dict=True)
    for name, own in scored.classes.items():
        assert own == pytest.approx(
            {"rows": report[name]["support"], "precision": report[name]["precision"],
             "recall": report[name]["recall"], "f1": report[name]["f1-score"]}
        )  # fmt: skip


def test_an_entity_is_right_only_with_all_its_words_and_its_type():
    true = [["B-PER", "I-PER", "O", "B-LOC"]]
    said = [["B-PER", "O", "O", "B-LOC"]]
    scored = score_tags(true, said)
    # One of two entities found, one of two calls right; three of four words.
    assert (scored.values["recall"], scored.values["precision"], scored.values["accuracy"]) == (0.5, 0.5, 0.75)
    assert scored.classes["PER"] == {"rows": 1.0, "precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_tags_without_letters_are_classes_and_each_word_counts():
    true = [["NOUN", "NOUN", "VERB", "O"], ["PER"]]
    said = [["NOUN", "VERB", "VERB", "O"], ["PER"]]
    scored = score_tags(true, said)
    assert scored.classes == {
        "NOUN": {"rows": 2.0, "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)},
        "PER": {"rows": 1.0, "precision": 1.0, "recall": 1.0, "f1": 1.0},
        "VERB": {"rows": 1.0, "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3)},
    }
    assert scored.values["f1"] == 0.75  # 3 of 4 calls, 3 of 4 words that are not O


@pytest.mark.parametrize("seed", range(3))
def test_classes_of_single_words_are_those_of_scikit_learn(seed):
    from sklearn.metrics import f1_score

    true, said = drawn(["NOUN", "VERB", "X-Y", "BY"], seed)
    flat = [[tag for row in rows for tag in row] for rows in (true, said)]
    values = score_tags(true, said).values
    assert values["f1_macro"] == pytest.approx(f1_score(*flat, average="macro"))
    assert values["f1_micro"] == pytest.approx(f1_score(*flat, average="micro"))


def test_bilou_counts_like_bioes():
    true, said = drawn(["O", "B-PER", "I-PER", "E-PER", "S-PER", "S-LOC"], seed=5)
    written = {"E": "L", "S": "U"}
    bilou = [[[written.get(tag[0], tag[0]) + tag[1:] for tag in row] for row in rows] for rows in (true, said)]
    assert score_tags(*bilou) == score_tags(true, said)


def test_an_entity_without_a_test_row_is_named_and_in_no_macro_average():
    true = [["B-PER", "O", "O"], ["B-LOC", "O", "O"]]
    said = [["B-PER", "O", "B-ORG"], ["O", "O", "O"]]
    scored = score_tags(true, said)
    assert scored.values["recall_macro"] == 0.5  # PER found, LOC not; ORG does not exist
    assert scored.values["precision"] == 0.5  # but calling ORG was wrong
    assert scored.classes["ORG"] == {"rows": 0.0, "precision": 0.0, "f1": 0.0}
    assert scored.classes["LOC"] == {"rows": 1.0, "recall": 0.0, "f1": 0.0}
    assert scored.remarks == (
        "'ORG' has no entity in the test rows and is in no macro or weighted average",
        "'LOC' was never predicted: its precision counts as 0",
    )


def test_without_entities_only_accuracy_is_defined_and_nothing_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scored = score_tags([["O", "O"]], [["O", "B-PER"]])
    assert scored.values == {"accuracy": 0.5}
    assert set(scored.undefined.values()) == {"no test row contains an entity"}
    assert len(scored.undefined) == 12


def test_a_model_that_finds_nothing_has_no_precision():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scored = score_tags([["B-PER", "O"]], [["O", "O"]])
    assert scored.undefined == dict.fromkeys(["precision", "precision_micro"], "no entity was predicted")
    assert scored.values["f1"] == scored.values["recall"] == 0.0
    assert np.isfinite(list(scored.values.values())).all()


@pytest.mark.parametrize(("true", "said"), [([["O"]], [["O", "O"]]), ([["O"]], []), ([], []), ([[]], [[]])])
def test_sentences_that_do_not_match_raise(true, said):
    with pytest.raises(ValueError, match=r"word|argument"):
        score_tags(true, said)
