"""SQuAD 2.0 metrics of answers that are spans of a context.

Source: the official evaluation script of SQuAD 2.0 (Rajpurkar, Jia, Liang 2018). Scores range from 0 to 100.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def score_answers(
    predicted: Sequence[str],
    references: Sequence[Sequence[str]],
    no_answer_probabilities: Sequence[float] | None = None,
    no_answer_threshold: float = 1.0,
) -> dict[str, float]:
    """Compare each predicted answer ("" for none) with its references (an empty list if the question has no answer).

    Returns exact, f1 and total over all questions, and the same as HasAns_* and NoAns_* if there are such questions. If
    the probability of no answer is above the threshold, the prediction counts as no answer. With probabilities, also
    returns best_exact and best_f1, the scores with the best threshold, and best_exact_thresh and best_f1_thresh, these
    thresholds. Raises ValueError without questions and for lists of unequal length.
    """
    if not predicted:
        raise ValueError("no question")
    answerable = np.array([bool(texts) for texts in references])
    pairs = list(zip(predicted, references, strict=True))
    raw = {
        "exact": np.array([best_exact(answer, texts) for answer, texts in pairs], dtype=np.float64),
        "f1": np.array([best_f1(answer, texts) for answer, texts in pairs], dtype=np.float64),
    }
    judged = raw
    if no_answer_probabilities is not None:
        doubts = np.array(no_answer_probabilities, dtype=np.float64)
        if doubts.shape != answerable.shape or not np.isfinite(doubts).all():
            raise ValueError("a finite probability of no answer is needed for each question")
        judged = {name: np.where(doubts > no_answer_threshold, ~answerable, scores) for name, scores in raw.items()}
    values: dict[str, float] = {}
    for prefix, asked in (("", np.full(len(pairs), True)), ("HasAns_", answerable), ("NoAns_", ~answerable)):
        if asked.any():
            values |= {f"{prefix}{name}": 100 * float(scores[asked].mean()) for name, scores in judged.items()}
            values[f"{prefix}total"] = float(asked.sum())
    if no_answer_probabilities is not None:
        silent = np.array([not answer for answer in predicted])
        for name, scores in raw.items():
            values[f"best_{name}"], values[f"best_{name}_thresh"] = _best_threshold(scores, doubts, answerable, silent)
    return values


def best_exact(answer: str, references: Sequence[str]) -> float:
    """Return 1 if the normalised answer is one of the normalised references, else 0."""
    return float(normalised(answer) in _gold(references))


def best_f1(answer: str, references: Sequence[str]) -> float:
    """Return the highest word-level F1 with any reference, from 0 to 1."""
    words = normalised(answer).split()
    return max(_overlap(words, reference.split()) for reference in _gold(references))


def normalised(text: str) -> str:
    """Return a text in lower case, without punctuation, articles and extra whitespace: "The  U.S.!" → "us"."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def _gold(references: Sequence[str]) -> list[str]:
    """Normalise the references; if none remains, only an empty answer is right."""
    return [text for text in map(normalised, references) if text] or [""]


def _overlap(words: list[str], right: list[str]) -> float:
    if not words or not right:
        return float(words == right)
    common = sum((Counter(words) & Counter(right)).values())
    return 2 * common / (len(words) + len(right))


def _best_threshold(
    scores: np.ndarray, doubts: np.ndarray, answerable: np.ndarray, silent: np.ndarray
) -> tuple[float, float]:
    """Find the best threshold for the probability of no answer; return its score (0 to 100) and the threshold.

    Starts without any answer and adds answers in order of increasing probability of no answer. Like the official
    script, it may place the threshold between two questions of equal probability.
    """
    order = np.argsort(doubts, kind="stable")
    gains = np.where(answerable, scores, np.where(silent, 0.0, -1.0))[order]
    reached = (~answerable).sum() + np.append(0.0, np.cumsum(gains))
    best = int(np.argmax(reached))
    return 100 * float(reached[best]) / len(scores), float(doubts[order[best - 1]]) if best else 0.0
