"""Classification metrics from true labels, predicted labels and probabilities, computed with scikit-learn.

A class without a test row has no recall, so macro and weighted averages are over the classes with test rows. A class
with rows that is never predicted counts with precision 0, otherwise a model could gain by ignoring it. The remarks name
both. mcc ranges from -1 to 1, norm_macro_recall is negative if worse than guessing; all others except log_loss range
from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from steps.errors import NumericError, Problem
from steps.scoring.scored import Scored

AVERAGES = ("macro", "micro", "weighted")
ROC_POINTS = 100


def score_labels(
    truth: Sequence[str],
    predicted: Sequence[str],
    probabilities: np.ndarray | None,
    names: Sequence[str],
    split: str = "test",
) -> Scored:
    """Compare one label per row; of two classes the second is the positive one.

    `probabilities` has the shape (rows, classes), in the order of `names`; each row sums to 1. log_loss is in nats.
    weighted_accuracy weights each row by the number of rows with the same true label. norm_macro_recall is macro recall
    scaled so that guessing gives 0. `split` names the rows in messages. Raises ValueError for a label outside `names`,
    NumericError for probabilities that are not finite.
    """
    from sklearn import metrics

    _refuse_one_class(names)
    place = {name: index for index, name in enumerate(names)}
    true, said = (np.array(_places(labels, place), dtype=np.int64) for labels in (truth, predicted))
    if not len(true) or len(true) != len(said):
        raise ValueError(f"{len(true)} true labels and {len(said)} predicted ones")
    rows = np.bincount(true, minlength=len(names))
    present = np.flatnonzero(rows)
    values: dict[str, float] = {"accuracy": metrics.accuracy_score(true, said)}
    values["weighted_accuracy"] = metrics.accuracy_score(true, said, sample_weight=rows[true])
    undefined: dict[str, str] = {}
    each = np.eye(len(names), dtype=bool)
    decided = _decided(each[true], each[said], names, undefined, split)
    values["balanced_accuracy"] = decided.values["recall_macro"]
    guessing = 1 / len(names)
    values["norm_macro_recall"] = (values["balanced_accuracy"] - guessing) / (1 - guessing)
    if len(present) > 1:
        values["mcc"] = metrics.matthews_corrcoef(true, said)
    else:
        undefined["mcc"] = f"every {split} row is {names[present[0]]!r}"
    values |= decided.values
    if len(names) == 2:
        values |= _of_positive(decided.classes[names[1]], undefined, names[1], split)
    if probabilities is not None:
        checked = _checked(probabilities, (len(true), len(names)), split)
        values["log_loss"] = metrics.log_loss(true, checked, labels=range(len(names)))
        ranked = np.eye(len(names), dtype=bool)[true]
        values |= _ranked(ranked, checked, undefined, split)
        if len(names) == 2:
            values |= _ranked_positive(ranked[:, 1], checked[:, 1], undefined, names[1], split)
    return Scored(_plain(values), undefined, decided.classes, decided.remarks)


def score_label_sets(
    truth: np.ndarray,
    predicted: np.ndarray,
    probabilities: np.ndarray | None,
    names: Sequence[str],
    split: str = "test",
) -> Scored:
    """Compare any number of labels per row; arguments have the shape (rows, classes), the first two are bool.

    subset_accuracy is the share of rows with exactly the right labels, hamming_loss the share of wrong decisions. iou
    is the mean over rows of right labels among those that are true or predicted; 1 for a row that has neither.
    `split` names the rows in messages. Raises ValueError for other shapes, NumericError for probabilities that are not
    finite.
    """
    from sklearn import metrics

    _refuse_one_class(names)
    true, said = np.asarray(truth, dtype=bool), np.asarray(predicted, dtype=bool)
    if not len(true) or true.shape != said.shape or true.shape[1:] != (len(names),):
        raise ValueError(f"true labels of shape {true.shape}, predicted ones of {said.shape}, {len(names)} classes")
    undefined: dict[str, str] = {}
    decided = _decided(true, said, names, undefined, split)
    values = {
        "subset_accuracy": float((true == said).all(axis=1).mean()),
        "hamming_loss": metrics.hamming_loss(true, said),
        "iou": metrics.jaccard_score(true, said, average="samples", zero_division=1.0),
        **_overlaps(true, said, undefined, split),
        **decided.values,
    }
    if probabilities is not None:
        values |= _ranked(true, _checked(probabilities, true.shape, split), undefined, split)
    return Scored(_plain(values), undefined, decided.classes, decided.remarks)


def confusion_matrix(truth: Sequence[str], predicted: Sequence[str], names: Sequence[str]) -> dict[str, list]:
    """Count rows by true label (outer list) and predicted label (inner list), both in the order of `names`."""
    from sklearn import metrics

    place = {name: index for index, name in enumerate(names)}
    counts = metrics.confusion_matrix(_places(truth, place), _places(predicted, place), labels=range(len(names)))
    return {"names": list(names), "counts": counts.tolist()}


def roc_curves(
    truth: Sequence[str], probabilities: np.ndarray, names: Sequence[str], split: str = "test"
) -> dict[str, dict[str, Any]]:
    """Return fpr, tpr, threshold and AUC of each class against the others, with at most 100 points.

    Thresholds decrease. A class without a test row, or without a row of another class, has no curve and is left out.
    """
    from sklearn import metrics

    true = np.array(truth)
    checked = _checked(probabilities, (len(true), len(names)), split)
    curves = {}
    for index, name in enumerate(names):
        rows, scores = true == name, checked[:, index]
        if rows.all() or not rows.any():
            continue
        fpr, tpr, thresholds = metrics.roc_curve(rows, scores)
        # The first point predicts no row; scikit-learn gives it an infinite threshold, which JSON cannot hold.
        thresholds[0] = np.nextafter(scores.max(), np.inf)
        kept = _spread(fpr, tpr)
        curves[name] = {
            "fpr": fpr[kept].tolist(),
            "tpr": tpr[kept].tolist(),
            "threshold": thresholds[kept].tolist(),
            "auc": float(metrics.auc(fpr, tpr)),
        }
    return curves


def _decided(true: np.ndarray, said: np.ndarray, names: Sequence[str], undefined: dict[str, str], split: str) -> Scored:
    """Return precision, recall and F1 of each class and their averages, from two bool arrays."""
    from sklearn.metrics import precision_recall_fscore_support

    rows, calls = true.sum(axis=0), said.sum(axis=0)
    present = np.flatnonzero(rows)
    each = precision_recall_fscore_support(true, said, average=None, zero_division=0)
    classes = {}
    for index, name in enumerate(names):
        own = {"rows": float(rows[index])}
        if calls[index]:
            own["precision"] = float(each[0][index])
        if rows[index]:
            own["recall"] = float(each[1][index])
        if rows[index] or calls[index]:
            own["f1"] = float(each[2][index])
        classes[name] = own
    values: dict[str, float] = {}
    for average in AVERAGES:
        among = None if average == "micro" else present  # a wrong prediction of an absent class also counts
        if not len(present) or (average == "micro" and not calls.sum()):
            missing = ("precision", "recall", "f1") if not len(present) else ("precision",)
            why = f"no {split} row has a label" if not len(present) else "no label was predicted"
            undefined |= {f"{measure}_{average}": why for measure in missing}
        if len(present):
            three = precision_recall_fscore_support(true, said, labels=among, average=average, zero_division=0)
            values |= dict(zip((f"{m}_{average}" for m in ("precision", "recall", "f1")), three[:3], strict=True))
    values = {name: value for name, value in values.items() if name not in undefined}
    without = f"has no {split} row and is in no macro or weighted average"
    remarks = [f"{name!r} {without}" for name in _named(names, rows == 0)]
    remarks += [
        f"{name!r} was never predicted: its precision counts as 0" for name in _named(names, (rows > 0) & (calls == 0))
    ]
    return Scored(values, undefined, classes, tuple(remarks))


def _of_positive(own: dict[str, float], undefined: dict[str, str], name: str, split: str) -> dict[str, float]:
    for measure in ("precision", "recall", "f1"):
        if measure not in own:
            what = "was predicted as" if measure == "precision" else "is"
            undefined[f"{measure}_binary"] = f"no {split} row {what} {name!r}"
    return {f"{measure}_binary": value for measure, value in own.items() if measure != "rows"}


def _overlaps(true: np.ndarray, said: np.ndarray, undefined: dict[str, str], split: str) -> dict[str, float]:
    """Return the averages over classes of the rows that are right among those that are true or predicted."""
    from sklearn.metrics import jaccard_score

    present = np.flatnonzero(true.sum(axis=0))
    if not len(present):
        undefined |= {f"iou_{average}": f"no {split} row has a label" for average in AVERAGES}
        return {}
    among = {"macro": present, "micro": None, "weighted": present}
    return {f"iou_{name}": jaccard_score(true, said, labels=labels, average=name) for name, labels in among.items()}


def _ranked_positive(
    true: np.ndarray, probabilities: np.ndarray, undefined: dict[str, str], name: str, split: str
) -> dict[str, float]:
    """Return average precision and AUC of the positive class of two."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    if true.all() or not true.any():
        undefined["AUC_binary"] = f"{'every' if true.all() else 'no'} {split} row is {name!r}"
    if not true.any():
        undefined["average_precision_binary"] = f"no {split} row is {name!r}"
        return {}
    values = {"average_precision_binary": average_precision_score(true, probabilities)}
    return values if true.all() else {**values, "AUC_binary": roc_auc_score(true, probabilities)}


def _ranked(true: np.ndarray, probabilities: np.ndarray, undefined: dict[str, str], split: str) -> dict[str, float]:
    """Return average precision and AUC of each class against the rest, by probability."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    values: dict[str, float] = {}
    some = np.asarray(true.any(axis=0))
    for name, score, usable in (
        ("average_precision", average_precision_score, some),
        ("AUC", roc_auc_score, some & ~true.all(axis=0)),
    ):
        for average in AVERAGES:
            columns = np.full(len(some), True) if average == "micro" else usable
            chosen = true[:, columns]
            if not chosen.any() or (name == "AUC" and chosen.all()):
                undefined[f"{name}_{average}"] = f"no class has both {split} rows of its own and {split} rows of others"
            else:
                # scikit-learn treats one column as a binary task; the average over one class is that class.
                shape = chosen.ravel() if chosen.shape[1] == 1 else chosen
                said = probabilities[:, columns]
                values[f"{name}_{average}"] = score(shape, said.reshape(shape.shape), average=average)
    return values


def _refuse_one_class(names: Sequence[str]) -> None:
    if len(names) < 2:
        raise ValueError(f"classes {list(names)}: at least two are needed")


def _checked(probabilities: np.ndarray, shape: tuple[int, ...], split: str) -> np.ndarray:
    checked = np.asarray(probabilities, dtype=np.float64)
    if checked.shape != shape:
        raise ValueError(f"probabilities of shape {checked.shape} for {shape}")
    if not np.isfinite(checked).all():
        row = int(np.flatnonzero(~np.isfinite(checked).all(axis=1))[0])
        raise NumericError(
            Problem("EVAL-E0602", f"probabilities of {split} row {row + 1:,}", str(checked[row].tolist()),
                    "finite numbers", "set precision=32")
        )  # fmt: skip
    return checked


def _places(labels: Sequence[str], place: dict[str, int]) -> list[int]:
    if unknown := sorted(set(labels) - set(place)):
        raise ValueError(f"labels outside the classes {list(place)}: {unknown}")
    return [place[label] for label in labels]


def _spread(fpr: np.ndarray, tpr: np.ndarray) -> np.ndarray:
    """Select points at equal distances along the curve, including both ends."""
    along = fpr + tpr
    if len(along) <= ROC_POINTS:
        return np.arange(len(along))
    steps = np.linspace(along[0], along[-1], ROC_POINTS)
    return np.unique(np.append(np.searchsorted(along, steps[:-1], side="right") - 1, len(along) - 1))


def _named(names: Sequence[str], chosen: np.ndarray) -> list[str]:
    return [name for name, take in zip(names, chosen, strict=True) if take]


def _plain(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}
