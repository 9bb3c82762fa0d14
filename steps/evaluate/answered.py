"""Extractive question answering, scored by the rules of SQuAD 2.0.

A base model without a head for this is replaced by a baseline: always no answer. A base with such a head is evaluated
itself.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.errors import Problem, UserError
from steps.evaluate.comparison import Comparison
from steps.evaluate.held_out import first, read_rows
from steps.params.settings import EvaluationSettings
from steps.scoring.answer_metrics import best_exact, best_f1, score_answers
from steps.scoring.answer_windows import answers_of, references_of
from steps.scoring.text_metrics import without


@dataclass(frozen=True)
class Said:
    """The predictions of one model for the held-out questions; lists have one entry for each."""

    texts: list[str]
    """The answer; empty for no answer."""
    doubts: list[float]
    """Probability that there is no answer."""
    loss: float
    """Mean cross-entropy of start and end position over all windows, in nats."""


def compare(settings: EvaluationSettings, base: Path, tuned: Path, data: Path) -> Comparison:
    """Evaluate the tuned model, and the base or its baseline. Raises as `evaluate`."""
    rows, windows = _questions(settings, data)
    knows = _answers_questions(base)
    before = _said(base, rows, windows, settings) if knows else _nothing(rows, windows)
    after = before if tuned == base and knows else _said(tuned, rows, windows, settings)
    references = references_of(rows)
    compared = [[without(text, settings.options) for text in texts] for texts in references]
    scores = {}
    for name, one in (("base", before), ("tuned", after)):
        said = [without(text, settings.options) for text in one.texts]
        scores[name] = {"loss": one.loss, **score_answers(said, compared, one.doubts)}
    metric = settings.evaluation.gate_metric
    if metric not in scores["tuned"]:
        raise UserError(
            Problem("EVAL-E0206", "gate_metric", f"{metric}, which has no value, as no {settings.split} "
                    "question is of this kind",
                    f"one of {', '.join(scores['tuned'])}", "set gate_metric to one of them")
        )  # fmt: skip
    explained = {
        "base": "The base model has a head for question answering." if knows else
        "The base model has no head for question answering: base is a baseline that always predicts no answer.",
    }  # fmt: skip
    return Comparison(scores, _predictions(rows, references, before, after), {"answers": explained})


def _questions(settings: EvaluationSettings, data: Path) -> tuple[pa.Table, pa.Table]:
    """Read the first held-out rows and their windows."""
    rows = first(read_rows(settings, data), settings)
    windows = pq.read_table(data / "tokens" / f"{settings.split}.parquet")
    return rows, windows.filter(pa.compute.less(windows["row"], len(rows)))


def _answers_questions(folder: Path) -> bool:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return (config.get("architectures") or [""])[0].endswith("ForQuestionAnswering")


def _said(folder: Path, rows: pa.Table, windows: pa.Table, settings: EvaluationSettings) -> Said:
    from scipy.special import log_softmax

    from steps.evaluate.answering import logits_of_windows

    starts, ends = logits_of_windows(folder, windows, settings)
    losses = [
        -float(log_softmax(logits)[place])
        for name, side in (("start_positions", starts), ("end_positions", ends))
        for logits, place in zip(side, windows[name].to_pylist(), strict=True)
    ]
    answers = answers_of(rows, windows, starts, ends, settings.columns)
    return Said([one.text for one in answers], [one.no_answer_probability for one in answers], float(np.mean(losses)))


def _nothing(rows: pa.Table, windows: pa.Table) -> Said:
    """Return the baseline without answers; its loss is that of a uniformly random position."""
    lengths = [len(ids) for ids in windows["input_ids"].to_pylist()]
    return Said([""] * len(rows), [1.0] * len(rows), float(np.mean([math.log(length) for length in lengths])))


def _predictions(rows: pa.Table, references: list[list[str]], before: Said, after: Said) -> pa.Table:
    """Return one row for each held-out question; exact and f1 range from 0 to 1."""
    judged = list(zip(after.texts, references, strict=True))
    return pa.table(
        {
            "row": pa.array(range(len(rows)), pa.int64()),
            "question": rows["question"],
            "context": rows["context"],
            "references": pa.array(references, pa.list_(pa.string())),
            "base": pa.array(before.texts, pa.string()),
            "predicted": pa.array(after.texts, pa.string()),
            "exact": pa.array([best_exact(said, right) for said, right in judged], pa.float64()),
            "f1": pa.array([best_f1(said, right) for said, right in judged], pa.float64()),
            "no_answer_probability": pa.array(after.doubts, pa.float64()),
        }
    )
