"""Prompts that are longer than max_prompt_length: left out, cut at the left, or refused.

For the pipelines that let the model answer while they train. Their trainers take prompts as they are, so a long one
would push its answer out of the model's window.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Handling = Literal["filter", "truncate", "refuse"]


@dataclass(frozen=True)
class Fitted:
    """Prompts after the limit, and what it cost."""

    prompts: list[list[int]]
    """Token lists, none longer than the limit."""
    kept: np.ndarray
    """Whether each given prompt is still there, bool."""
    long: np.ndarray
    """Positions of the given prompts that were too long, int64."""
    lengths: np.ndarray = field(repr=False)
    """Tokens of each given prompt, int64."""

    @property
    def left_out(self) -> int:
        """Prompts that are gone."""
        return int((~self.kept).sum())

    @property
    def truncated(self) -> int:
        """Prompts that lost their beginning."""
        return len(self.long) - self.left_out

    @property
    def all_long(self) -> bool:
        """Return whether no given prompt fitted: then the limit is wrong, not the rows."""
        return 0 < len(self.long) == len(self.lengths)


class TooLong(ValueError):
    """Prompts longer than the limit, where they are to be refused."""

    def __init__(self, positions: np.ndarray, lengths: np.ndarray, limit: int):
        super().__init__(f"{len(positions)} prompts longer than {limit} tokens, the longest has {lengths.max()}")
        self.positions = positions


def fit_prompts(prompts: list[list[int]], limit: int, handling: Handling) -> Fitted:
    """Bring prompts (token lists) to at most `limit` tokens.

    Cut prompts keep their end, where the question stands.
    Raises TooLong when `handling` is refuse and one is longer.
    """
    if limit < 1:
        raise ValueError(f"a limit of {limit} tokens")
    lengths = np.fromiter(map(len, prompts), np.int64, len(prompts))
    long = np.flatnonzero(lengths > limit)
    kept = np.ones(len(prompts), bool)
    if handling == "refuse" and len(long):
        raise TooLong(long, lengths, limit)
    if handling == "filter":
        kept[long] = False
    fitted = [prompt[-limit:] for prompt, keep in zip(prompts, kept.tolist(), strict=True) if keep]
    return Fitted(fitted, kept, long, lengths)
