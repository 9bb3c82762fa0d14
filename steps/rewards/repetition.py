"""Punishment of repetition: the share of n-grams that occurred before (arXiv 2502.03373, appendix; open-r1).

The reward is (1 - different n-grams / all n-grams) × max_penalty: 0 for a text without repetition.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from steps.params.group import Group
from steps.rewards.library import Function, Judged, by_row


class Options(Group):
    """What is a repetition, and what it costs."""

    ngram_size: int = Field(3, ge=1, le=100)
    """Words (or characters) that must be the same in a row."""

    max_penalty: float = Field(-1.0, le=0)
    """Reward of a text that is nothing but repetition."""

    unit: Literal["words", "characters"] = "words"
    """What n-grams are made of; characters for languages without spaces."""


def columns(options: Options) -> tuple[str, ...]:
    """Return no column: only the completion is read."""
    return ()


def reward(options: Options) -> Function:
    """Return the reward, from max_penalty to 0; 0 for texts shorter than one n-gram."""

    def judge(text: str) -> Judged:
        text = text.lower()
        parts = text.split() if options.unit == "words" else list("".join(text.split()))
        size = options.ngram_size
        count = len(parts) - size + 1
        if count < 1:
            return Judged(0.0)
        different = len({tuple(parts[start : start + size]) for start in range(count)})
        return Judged((1.0 - different / count) * options.max_penalty + 0.0)  # + 0.0: never -0.0

    return by_row(judge)
