"""Metrics of generated text, and the check that metrics are finite."""

from __future__ import annotations

import math
from collections.abc import Sequence

from steps.errors import NumericError, Problem
from steps.evaluate.held_out import Measured
from steps.params.evaluation_config import EvaluationOptions
from steps.scoring.text_metrics import exact, score_texts


def score(
    measured: Measured, references: Sequence[str | None], options: EvaluationOptions | None = None
) -> dict[str, float]:
    """Compute all metrics of one model; text metrics only if there are answers.

    loss is the mean over all supervised tokens (not over rows), in nats; perplexity is its exponential.
    """
    loss = float(measured.nll.sum() / measured.supervised.sum())
    scores = {"loss": loss, "perplexity": _exp(loss)}
    return {**scores, **text_scores(measured.answers, references, options)}


def text_scores(
    answers: Sequence[str | None], references: Sequence[str | None], options: EvaluationOptions | None = None
) -> dict[str, float]:
    """Compute the metrics of the answers that have a reference; none if no answer has one."""
    pairs = [
        (answer, reference)
        for answer, reference in zip(answers, references, strict=True)
        if answer is not None and reference is not None
    ]
    if not pairs:
        return {}
    given, right = (list(texts) for texts in zip(*pairs, strict=True))
    return score_texts(given, right, options)


def right_ones(
    answers: Sequence[str | None], references: Sequence[str | None], options: EvaluationOptions
) -> list[bool | None]:
    """Return for each answer whether it equals its reference; None for one without."""
    return [
        None if answer is None or reference is None else exact(answer, reference, options)
        for answer, reference in zip(answers, references, strict=True)
    ]


def refuse_non_finite(scores: dict[str, dict[str, float]]) -> None:
    """Raise NumericError with all metrics that are NaN or infinite, as these cannot be compared."""
    problems = [
        Problem("EVAL-E0601", f"{metric} of the {model} model", str(value), "a finite number",
                "lower learning_rate, or set precision=32" if model == "tuned" else "set precision=32")
        for model, values in scores.items()
        for metric, value in values.items()
        if not math.isfinite(value)
    ]  # fmt: skip
    if problems:
        raise NumericError(problems)


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
