"""Numbers about the answers, counted while they are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

BARS = 20


class Tally:
    """Lengths in tokens, stop reasons and truncated prompts; memory grows with the longest length only."""

    def __init__(self) -> None:
        self.rows = self.answers = self.references = self.truncated = self.empty = 0
        self._reasons: Counter[str] = Counter()
        self._prompts: Counter[int] = Counter()
        self._answers: Counter[int] = Counter()

    def add(self, reference: str | None, answers: Sequence[dict[str, Any]]) -> None:
        """Count a row with its answers."""
        self.rows += 1
        self.references += reference is not None
        self.truncated += answers[0]["truncated"]
        self._prompts[answers[0]["prompt_tokens"]] += 1
        for one in answers:
            self.answers += 1
            self.empty += not one["text"].strip()
            self._reasons[one["finish_reason"]] += 1
            self._answers[one["completion_tokens"]] += 1

    def facts(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        return {
            "rows": self.rows,
            "answers": self.answers,
            "references": self.references,
            "truncated_prompts": self.truncated,
            "empty_answers": self.empty,
            "finish_reasons": dict(sorted(self._reasons.items())),
            "prompt_tokens": sum(length * count for length, count in self._prompts.items()),
            "completion_tokens": sum(length * count for length, count in self._answers.items()),
            "prompt_length": spread(self._prompts),
            "completion_length": spread(self._answers),
        }


def spread(lengths: Counter[int]) -> dict[str, Any]:
    """Describe lengths: minimum, median, 95 %, maximum, and a histogram of at most BARS bars of equal width.

    Median and 95 % are the smallest length that so many are not longer than.
    """
    total, ordered = sum(lengths.values()), sorted(lengths)
    low, high = ordered[0], ordered[-1]

    def reached(share: float) -> int:
        seen = 0
        for length in ordered:
            seen += lengths[length]
            if seen >= share * total:
                return length
        return high

    width = -(-(high - low + 1) // BARS)
    bars = -(-(high - low + 1) // width)
    counts = [0] * bars
    for length, count in lengths.items():
        counts[(length - low) // width] += count
    edges = [low + width * place for place in range(bars + 1)]
    return {
        "min": low,
        "median": reached(0.5),
        "p95": reached(0.95),
        "max": high,
        "histogram": {"edges": edges, "counts": counts},
    }
