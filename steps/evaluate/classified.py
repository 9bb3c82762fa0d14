"""Text classification with one or several labels per text.

A base model without a head for these classes is replaced by a baseline: always the most frequent class, with the
classes' shares of the training rows as probabilities. A base that is a classifier of exactly these classes is evaluated
itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from steps.artifacts import read_manifest
from steps.errors import Problem, UserError
from steps.evaluate.comparison import Comparison
from steps.evaluate.held_out import first_rows
from steps.kinds import load
from steps.params.settings import EvaluationSettings
from steps.scoring.classification_metrics import confusion_matrix, roc_curves, score_label_sets, score_labels
from steps.scoring.scored import Scored
from steps.tasks import load_task

LEAST_LIKELY = 1e-15  # a class without training rows would make the baseline's loss infinite
MOST_CURVES, MOST_COUNTED = 20, 100  # largest numbers of classes for ROC curves and for the confusion matrix


@dataclass(frozen=True)
class Judged:
    """The predictions of one model for the held-out rows."""

    probabilities: np.ndarray
    """Of each class, (rows, classes)."""
    said: np.ndarray
    """The predicted labels, bool (rows, classes); one per row unless a row may have several labels."""
    loss: float
    """Mean cross-entropy in nats: over rows, or over rows and classes if a row may have several labels."""


def compare(settings: EvaluationSettings, base: Path, tuned: Path, data: Path) -> Comparison:
    """Evaluate the tuned classifier, and the base or its baseline. Raises as `evaluate`."""
    facts = read_manifest(data, "data").facts
    names, several = facts["class_names"], facts["multilabel"]
    rows, tokens = first_rows(settings, data)
    truth = _truth(tokens["labels"], len(names), several)
    knows = _is_classifier_of(base, names)
    if knows:
        before = _judged(base, tokens, truth, settings, several)
    else:
        before = _by_shares(facts["splits"]["train"], truth, names, several)
    after = before if tuned == base and knows else _judged(tuned, tokens, truth, settings, several)
    scored = {
        name: _scored(one, truth, names, several, settings.split).joined(_of_task(settings.task, rows, one, names))
        for name, one in (("base", before), ("tuned", after))
    }
    _refuse_undefined(settings.evaluation.gate_metric, {"tuned": scored["tuned"]} if after is before else scored)
    scores = {name: {"loss": one.loss, **scored[name].values} for name, one in (("base", before), ("tuned", after))}
    labels = _told(scored, after, truth, names, several, settings.split)
    labels["base"] = (
        "The base model is a classifier of these classes." if knows else
        "The base model has no head for these classes: base is " + ("a baseline" if several else "the most frequent "
        "class") + ", with the classes' shares of the training rows as probabilities."
    )  # fmt: skip
    return Comparison(scores, _predictions(rows, before, after, truth, names, several), {"labels": labels})


def _truth(column: pa.ChunkedArray, classes: int, several: bool) -> np.ndarray:
    """Return the right labels as a bool array, (rows, classes)."""
    if several:
        return np.array(column.to_pylist(), dtype=np.float32).reshape(-1, classes) > 0.5
    return np.eye(classes, dtype=bool)[column.to_numpy()]


def _is_classifier_of(folder: Path, names: list[str]) -> bool:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    listed = {int(number): name for number, name in (config.get("id2label") or {}).items()}
    kind = (config.get("architectures") or [""])[0]
    return kind.endswith("ForSequenceClassification") and listed == dict(enumerate(names))


def _judged(folder: Path, tokens: pa.Table, truth: np.ndarray, settings: EvaluationSettings, several: bool) -> Judged:
    from scipy.special import expit, log_softmax, softmax

    from steps.evaluate.classifying import logits_of

    logits = logits_of(folder, tokens, settings)
    if several:
        loss = float(np.mean(np.logaddexp(0, np.where(truth, -logits, logits))))
        return Judged(expit(logits), logits > 0, loss)
    loss = float(-log_softmax(logits, axis=1)[truth].mean())
    return Judged(softmax(logits, axis=1), _one_each(logits), loss)


def _by_shares(train: dict[str, Any], truth: np.ndarray, names: list[str], several: bool) -> Judged:
    shares = np.array([train["classes"][name] for name in names]) / train["rows"]
    probabilities = np.tile(shares, (len(truth), 1))
    kept = np.clip(probabilities, LEAST_LIKELY, 1 - LEAST_LIKELY)
    if several:
        return Judged(probabilities, probabilities > 0.5, float(-np.log(np.where(truth, kept, 1 - kept)).mean()))
    return Judged(probabilities, _one_each(probabilities), float(-np.log(kept[truth]).mean()))


def _one_each(values: np.ndarray) -> np.ndarray:
    return np.eye(values.shape[1], dtype=bool)[values.argmax(axis=1)]


def _scored(judged: Judged, truth: np.ndarray, names: list[str], several: bool, split: str) -> Scored:
    if several:
        return score_label_sets(truth, judged.said, judged.probabilities, names, split)
    return score_labels(_names_of(truth, names), _names_of(judged.said, names), judged.probabilities, names, split)


def _of_task(task: str, rows: pa.Table, judged: Judged, names: list[str]) -> Scored:
    """Return the metrics that only this task has; none for most tasks."""
    name = getattr(load_task(task), "SCORES", "")
    return load(name)(rows, judged.probabilities, names) if name else Scored({})


def _names_of(table: np.ndarray, names: list[str]) -> list[str]:
    return [names[place] for place in table.argmax(axis=1)]


def _refuse_undefined(metric: str, scored: dict[str, Scored]) -> None:
    for which, one in scored.items():
        if metric != "loss" and metric not in one.values:
            why = one.undefined.get(metric) or "it is defined for two classes only"
            raise UserError(
                Problem("EVAL-E0206", "gate_metric", f"{metric}, which has no value for {which}: {why}",
                        f"one of loss, {', '.join(one.values)}", "set gate_metric to one of them")
            )  # fmt: skip


def _told(
    scored: dict[str, Scored], after: Judged, truth: np.ndarray, names: list[str], several: bool, split: str
) -> dict[str, Any]:
    """Return the part `labels` of metrics.json: classes, undefined metrics, remarks, confusion matrix, ROC curves."""
    told: dict[str, Any] = {
        "names": names,
        "multilabel": several,
        "classes": scored["tuned"].classes,
        "undefined": {which: one.undefined for which, one in scored.items()},
        "remarks": list(scored["tuned"].remarks),
    }
    if not several:
        right = _names_of(truth, names)
        if len(names) <= MOST_COUNTED:
            told["confusion"] = confusion_matrix(right, _names_of(after.said, names), names)
        if len(names) <= MOST_CURVES:
            told["roc"] = roc_curves(right, after.probabilities, names, split)
    return told


def _predictions(
    rows: pa.Table, before: Judged, after: Judged, truth: np.ndarray, names: list[str], several: bool
) -> pa.Table:
    """Return one row for each held-out row; probability is that of the predicted label, null with several labels."""
    kind = pa.list_(pa.string()) if several else pa.string()

    def told(table: np.ndarray) -> pa.Array:
        if several:
            return pa.array([[names[place] for place in np.flatnonzero(row)] for row in table], kind)
        return pa.array(_names_of(table, names), kind)

    best = [None] * len(rows) if several else after.probabilities.max(axis=1).tolist()
    return pa.table(
        {
            "row": pa.array(range(len(rows)), pa.int64()),
            "sentence1": rows["sentence1"],
            "sentence2": rows["sentence2"],
            "label": told(truth),
            "base": told(before.said),
            "predicted": told(after.said),
            "right": pa.array((truth == after.said).all(axis=1).tolist(), pa.bool_()),
            "probability": pa.array(best, pa.float64()),
            "probabilities": pa.array(after.probabilities.tolist(), pa.list_(pa.float64())),
        }
    )
