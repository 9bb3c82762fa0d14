"""Metrics of labels equal scikit-learn's, and undefined metrics are reported."""

import json
import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from steps.errors import NumericError
from steps.params.metrics import direction_of
from steps.scoring.classification_metrics import confusion_matrix, roc_curves, score_label_sets, score_labels

NAMES = ["good", "bad", "so-so", "none"]
AVERAGES = ("macro", "micro", "weighted")


def drawn(classes: int, rows: int = 300, seed: int = 0):
    """True labels, predictions and probabilities of a model that is right more often than not."""
    generator = np.random.default_rng(seed)
    true = generator.choice(classes, rows, p=generator.dirichlet(np.full(classes, 3)))
    probabilities = generator.dirichlet(np.ones(classes), rows) + 0.4 * np.eye(classes)[true]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    names = NAMES[:classes]
    return true, probabilities.argmax(axis=1), probabilities, names


def by_name(places, names):
    return [names[place] for place in places]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_label_metrics_are_those_of_scikit_learn(classes, seed):
    true, said, probabilities, names = drawn(classes, seed=seed)
    assert len(set(true)) == len(set(said)) == classes
    scored = score_labels(by_name(true, names), by_name(said, names), probabilities, names)
    expected = {
        "accuracy": sk.accuracy_score(true, said),
        "balanced_accuracy": sk.balanced_accuracy_score(true, said),
        "norm_macro_recall": sk.balanced_accuracy_score(true, said, adjusted=True),
        "mcc": sk.matthews_corrcoef(true, said),
        "log_loss": sk.log_loss(true, probabilities),
        "weighted_accuracy": sum(((true == row) & (said == row)).sum() * (true == row).sum() for row in range(classes))
        / sum((true == row).sum() ** 2 for row in range(classes)),
    }
    for average in AVERAGES:
        expected[f"precision_{average}"] = sk.precision_score(true, said, average=average)
        expected[f"recall_{average}"] = sk.recall_score(true, said, average=average)
        expected[f"f1_{average}"] = sk.f1_score(true, said, average=average)
        expected[f"average_precision_{average}"] = sk.average_precision_score(
            np.eye(classes)[true], probabilities, average=average
        )
        if classes > 2:
            expected[f"AUC_{average}"] = sk.roc_auc_score(true, probabilities, average=average, multi_class="ovr")
    if classes == 2:
        expected |= {"AUC_macro": sk.roc_auc_score(true, probabilities[:, 1])}
        expected |= {"AUC_weighted": expected["AUC_macro"]}
        expected |= {"AUC_micro": sk.roc_auc_score(np.eye(2)[true].ravel(), probabilities.ravel())}
        expected |= {
            "precision_binary": sk.precision_score(true, said),
            "recall_binary": sk.recall_score(true, said),
            "f1_binary": sk.f1_score(true, said),
            "average_precision_binary": sk.average_precision_score(true, probabilities[:, 1]),
            "AUC_binary": sk.roc_auc_score(true, probabilities[:, 1]),
        }
    assert scored.values == pytest.approx(expected)
    assert scored.undefined == {}
    assert scored.remarks == ()
    assert all(direction_of(name) is (name != "log_loss") for name in scored.values)


def test_each_class_has_its_own_numbers():
    true, said, _, names = drawn(3)
    scored = score_labels(by_name(true, names), by_name(said, names), None, names)
    report = sk.classification_report(true, said, target_names=names, output_dict=True)
    assert set(scored.classes) == set(names)
    for name in names:
        assert scored.classes[name] == pytest.approx(
            {"rows": report[name]["support"], "precision": report[name]["precision"],
             "recall": report[name]["recall"], "f1": report[name]["f1-score"]}
        )  # fmt: skip


def test_a_class_without_a_test_row_is_named_and_in_no_macro_average():
    # Two of "good", both found; two of "bad", of which one is called "so-so", which has no row.
    truth, said = ["good", "good", "bad", "bad"], ["good", "good", "bad", "so-so"]
    probabilities = np.array([[0.8, 0.1, 0.1], [0.6, 0.2, 0.2], [0.1, 0.7, 0.2], [0.3, 0.2, 0.5]])
    scored = score_labels(truth, said, probabilities, NAMES[:3])
    assert scored.values["recall_macro"] == 0.75  # (1 + 1/2) / 2
    assert scored.values["precision_macro"] == 1.0  # nothing was wrongly called good or bad
    assert scored.values["precision_micro"] == 0.75  # but one of four calls was wrong
    assert scored.values["AUC_macro"] == pytest.approx(
        (sk.roc_auc_score([1, 1, 0, 0], probabilities[:, 0]) + sk.roc_auc_score([0, 0, 1, 1], probabilities[:, 1])) / 2
    )
    assert scored.remarks == ("'so-so' has no test row and is in no macro or weighted average",)
    assert scored.classes["so-so"] == {"rows": 0.0, "precision": 0.0, "f1": 0.0}
    assert list(roc_curves(truth, probabilities, NAMES[:3])) == ["good", "bad"]


def test_a_class_that_is_never_predicted_counts_as_precision_0_and_is_named():
    scored = score_labels(["good", "bad"], ["good", "good"], None, NAMES[:2])
    assert scored.values["precision_macro"] == 0.25  # (1/2 + 0) / 2
    assert scored.remarks == ("'bad' was never predicted: its precision counts as 0",)
    assert scored.classes["bad"] == {"rows": 1.0, "recall": 0.0, "f1": 0.0}
    assert scored.undefined == {"precision_binary": "no test row was predicted as 'bad'"}
    assert scored.values["f1_binary"] == 0.0


def test_test_rows_of_a_single_class_leave_out_what_needs_two():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scored = score_labels(["good", "good"], ["good", "bad"], probabilities, NAMES[:2])
    assert set(scored.undefined) == {
        "mcc", "AUC_macro", "AUC_weighted", "AUC_binary", "recall_binary", "average_precision_binary"
    }  # fmt: skip
    assert not set(scored.undefined) & set(scored.values)
    assert scored.values["average_precision_macro"] == 1.0  # that of "good" alone
    assert all(np.isfinite(list(scored.values.values())))
    assert roc_curves(["good", "good"], probabilities, NAMES[:2]) == {}


@pytest.mark.parametrize("seed", range(3))
def test_metrics_of_label_sets_are_those_of_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    true = generator.random((200, 4)) < (0.5, 0.1, 0.9, 0.3)
    probabilities = np.clip(0.5 * generator.random((200, 4)) + 0.5 * true, 0, 1)
    said = probabilities > 0.4
    scored = score_label_sets(true, said, probabilities, NAMES)
    expected = {"subset_accuracy": sk.accuracy_score(true, said), "hamming_loss": sk.hamming_loss(true, said)}
    both, either = (true & said).sum(axis=1), (true | said).sum(axis=1)
    expected["iou"] = np.where(either, both / np.maximum(either, 1), 1.0).mean()
    for average in AVERAGES:
        expected |= {
            f"iou_{average}": sk.jaccard_score(true, said, average=average),
            f"precision_{average}": sk.precision_score(true, said, average=average),
            f"recall_{average}": sk.recall_score(true, said, average=average),
            f"f1_{average}": sk.f1_score(true, said, average=average),
            f"average_precision_{average}": sk.average_precision_score(true, probabilities, average=average),
            f"AUC_{average}": sk.roc_auc_score(true, probabilities, average=average),
        }
    assert scored.values == pytest.approx(expected)
    assert scored.undefined == {}
    assert all(direction_of(name) is (name != "hamming_loss") for name in scored.values)


def test_a_label_on_every_row_has_average_precision_and_no_auc():
    true = np.array([[1, 0, 1], [1, 1, 0]], dtype=bool)
    probabilities = np.array([[0.9, 0.2, 0.8], [0.6, 0.7, 0.1]])
    scored = score_label_sets(true, true, probabilities, NAMES[:3])
    assert scored.values["average_precision_macro"] == scored.values["AUC_macro"] == 1.0
    assert scored.values["subset_accuracy"] == 1.0
    only_first = score_label_sets(true[:, :2] | [[True, True]], true[:, :2], probabilities[:, :2], NAMES[:2])
    assert set(only_first.undefined) == {"AUC_macro", "AUC_micro", "AUC_weighted"}


def test_rows_without_any_label_leave_every_average_undefined():
    nothing = np.zeros((3, 2), dtype=bool)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scored = score_label_sets(nothing, nothing, np.full((3, 2), 0.1), NAMES[:2])
    assert scored.values == {"subset_accuracy": 1.0, "hamming_loss": 0.0, "iou": 1.0}
    assert len(scored.undefined) == 18
    assert scored.undefined["f1_macro"] == "no test row has a label"


def test_the_confusion_matrix_has_a_row_for_each_true_label():
    matrix = confusion_matrix(["good", "good", "bad"], ["good", "bad", "bad"], NAMES[:3])
    assert matrix == {"names": ["good", "bad", "so-so"], "counts": [[1, 1, 0], [0, 1, 0], [0, 0, 0]]}
    assert json.loads(json.dumps(matrix)) == matrix


def test_roc_curves_have_few_points_and_all_of_them_lie_on_the_curve():
    true, _, probabilities, names = drawn(3, rows=5000)
    curves = roc_curves(by_name(true, names), probabilities, names)
    assert json.loads(json.dumps(curves, allow_nan=False)) == curves
    for place, name in enumerate(names):
        curve = curves[name]
        assert 50 < len(curve["fpr"]) == len(curve["tpr"]) == len(curve["threshold"]) <= 100
        assert (curve["fpr"][0], curve["tpr"][0], curve["fpr"][-1], curve["tpr"][-1]) == (0, 0, 1, 1)
        assert curve["auc"] == pytest.approx(sk.roc_auc_score(true == place, probabilities[:, place]))
        assert np.trapezoid(curve["tpr"], curve["fpr"]) == pytest.approx(curve["auc"], abs=0.005)
        assert np.all(np.diff(curve["threshold"]) < 0)
        for fpr, tpr, threshold in zip(curve["fpr"], curve["tpr"], curve["threshold"], strict=True):
            called = probabilities[:, place] >= threshold
            assert called[true != place].mean() == pytest.approx(fpr)
            assert called[true == place].mean() == pytest.approx(tpr)


def test_a_short_roc_curve_keeps_every_point():
    curve = roc_curves(["bad", "good", "bad"], np.array([[0.1, 0.9], [0.6, 0.4], [0.7, 0.3]]), NAMES[:2])["bad"]
    fpr, tpr, thresholds = sk.roc_curve([1, 0, 1], [0.9, 0.4, 0.3])
    assert (curve["fpr"], curve["tpr"]) == (fpr.tolist(), tpr.tolist())
    assert curve["threshold"][1:] == thresholds[1:].tolist()


def test_probabilities_that_are_no_numbers_are_refused_with_their_row():
    probabilities = np.array([[0.5, 0.5], [np.nan, 0.5]])
    with pytest.raises(NumericError, match="EVAL-E0602 probabilities of test row 2"):
        score_labels(["good", "bad"], ["good", "bad"], probabilities, NAMES[:2])


def test_what_only_a_mistake_of_ours_can_cause_raises():
    with pytest.raises(ValueError, match="unheard-of"):
        score_labels(["good"], ["unheard-of"], None, NAMES)
    with pytest.raises(ValueError, match="0 true labels"):
        score_labels([], [], None, NAMES)
    with pytest.raises(ValueError, match="shape"):
        score_labels(["good"], ["bad"], np.array([[0.5, 0.5]]), NAMES)
    with pytest.raises(ValueError, match="at least two are needed"):
        score_labels(["good"], ["good"], None, ["good"])
    with pytest.raises(ValueError, match="shape"):
        score_label_sets(np.ones((2, 3)), np.ones((2, 2)), None, NAMES[:3])
