"""Convert the logits of a model to an answer: a span of the context, or no answer.

A long context is divided into overlapping windows; each window has logits for the start and the end of the answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steps.errors import NumericError, Problem


@dataclass(frozen=True)
class Window:
    """The model's logits for one window of a context."""

    start: np.ndarray
    """One logit per token: the answer starts here."""
    end: np.ndarray
    """One logit per token: the answer ends here."""
    offsets: Sequence[tuple[int, int] | None]
    """Character offsets of each token in the context (start, exclusive end); None for other tokens."""
    null_position: int = 0
    """Index of the token that means "no answer", usually CLS."""


@dataclass(frozen=True)
class Candidate:
    """A possible answer."""

    text: str
    """Empty for "no answer"."""
    place: int
    """Offset of its first character in the context; -1 for "no answer"."""
    score: float
    """Sum of both logits."""
    probability: float
    """Share among the candidates of this question."""


@dataclass(frozen=True)
class Answer:
    """The answer to one question, with its candidates."""

    text: str
    candidates: tuple[Candidate, ...]
    """Best first."""
    null_score_difference: float | None
    """Score of "no answer" minus that of the best span; None if an answer is required, infinite without a span."""

    @property
    def no_answer_probability(self) -> float:
        """Sigmoid of null_score_difference: above 0.5 if "no answer" scores higher than the best span."""
        if self.null_score_difference is None:
            return 0.0
        # Computed with tanh, because exp overflows for large differences.
        return 0.5 * (1 + math.tanh(self.null_score_difference / 2))


def postprocess(
    context: str,
    windows: Sequence[Window],
    *,
    n_best_size: int = 20,
    max_answer_length_in_tokens: int = 30,
    may_have_no_answer: bool = True,
    null_score_threshold: float = 0.0,
) -> Answer:
    """Select the best span of `context` over all windows of one question.

    In each window the `n_best_size` best starts are combined with the `n_best_size` best ends. The score of "no answer"
    is its lowest score over all windows, because another window may contain the answer; it is selected if it exceeds
    that of the best span by more than `null_score_threshold`. Raises NumericError for logits that are not finite.
    """
    spans: list[tuple[float, int, int]] = []
    null_score = math.inf
    for window in windows:
        _refuse_non_finite(window)
        null_score = min(
            null_score, float(window.start[window.null_position]) + float(window.end[window.null_position])
        )
        spans += _best_spans(window, n_best_size, max_answer_length_in_tokens)
    spans = sorted(spans, key=lambda span: -span[0])[:n_best_size]
    if not windows or not may_have_no_answer:
        text = context[spans[0][1] : spans[0][2]] if spans else ""
        return Answer(text, _candidates(context, spans), None)
    # "No answer" stays in the list even if n_best_size spans score higher, because its probability is needed.
    everything = sorted([*spans, (null_score, -1, -1)], key=lambda span: -span[0])
    if len(everything) > n_best_size:
        del everything[-2 if everything[-1][1] == -1 and n_best_size > 1 else -1]
    difference = null_score - spans[0][0] if spans else math.inf
    text = "" if difference > null_score_threshold else context[spans[0][1] : spans[0][2]]
    return Answer(text, _candidates(context, everything), difference)


def _best_spans(window: Window, n_best_size: int, longest: int) -> list[tuple[float, int, int]]:
    """Return (score, start, exclusive end) in characters of the best spans inside the context."""
    starts, ends = (_best(logits, n_best_size) for logits in (window.start, window.end))
    inside = np.array([offset is not None for offset in window.offsets])
    tokens = ends[None, :] - starts[:, None] + 1
    allowed = (tokens >= 1) & (tokens <= longest) & inside[starts][:, None] & inside[ends][None, :]
    start, end = (np.asarray(logits, dtype=np.float64) for logits in (window.start, window.end))  # fp16 overflows
    scores = start[starts][:, None] + end[ends][None, :]
    spans = []
    for row, column in np.argwhere(allowed):
        first, last = window.offsets[starts[row]], window.offsets[ends[column]]
        if first and last and first[0] < last[1]:  # some tokenizers create tokens without characters
            spans.append((float(scores[row, column]), first[0], last[1]))
    return spans


def _best(logits: np.ndarray, count: int) -> np.ndarray:
    return np.argsort(-logits, kind="stable")[:count]


def _candidates(context: str, spans: list[tuple[float, int, int]]) -> tuple[Candidate, ...]:
    if not spans:
        return ()
    scores = np.array([score for score, _, _ in spans], dtype=np.float64)
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    return tuple(
        Candidate(context[first:after] if first >= 0 else "", first, score, float(share))
        for (score, first, after), share in zip(spans, shares, strict=True)
    )


def _refuse_non_finite(window: Window) -> None:
    for name, logits in (("start", window.start), ("end", window.end)):
        if not np.isfinite(logits).all():
            raise NumericError(
                Problem("EVAL-E0603", f"{name} logits of the model", str(float(logits[~np.isfinite(logits)][0])),
                        "finite numbers", "set precision=32")
            )  # fmt: skip
