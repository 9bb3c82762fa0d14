"""Handle prompts that are longer than max_prompt_length: leave out, truncate on the left, or refuse.

For pipelines that generate answers during training. Their trainers do not truncate prompts, so a long prompt would
leave no tokens for its answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Handling = Literal["filter", "truncate", "refuse"]


@dataclass(frozen=True)
class Fitted:
    """Prompts after applying the limit, and the effect of the limit."""

    prompts: list[list[int]]
    """Token lists, none longer than the limit."""
    kept: np.ndarray
    """Whether each given prompt was kept, bool."""
    long: np.ndarray
    """Positions of the given prompts that were too long, int64."""
    lengths: np.ndarray = field(repr=False)
    """Tokens of each given prompt, int64."""

    @property
    def left_out(self) -> int:
        """Number of prompts that were left out."""
        return int((~self.kept).sum())

    @property
    def truncated(self) -> int:
        """Number of prompts that were truncated."""
        return len(self.long) - self.left_out

    @property
    def all_long(self) -> bool:
        """Return whether all given prompts were too long, so that the limit is wrong, not the rows."""
        return 0 < len(self.long) == len(self.lengths)


class TooLong(ValueError):
    """Prompts are longer than the limit, and `handling` is refuse."""

    def __init__(self, positions: np.ndarray, lengths: np.ndarray, limit: int):
        super().__init__(f"{len(positions)} prompts longer than {limit} tokens, the longest has {lengths.max()}")
        self.positions = positions


def fit_prompts(prompts: list[list[int]], limit: int, handling: Handling) -> Fitted:
    """Limit prompts (token lists) to `limit` tokens.

    Truncated prompts keep their end, which holds the question.
    Raises TooLong if `handling` is refuse and a prompt is longer.
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
