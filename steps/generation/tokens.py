"""A prompt and its answer as tokens, how they are decoded, and how many rows are computed together."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch

from steps.generation.stopping import StopStrings


@dataclass(frozen=True)
class Prompt:
    """A prompt, ready for the model."""

    ids: tuple[int, ...]
    most: int
    """Longest answer in tokens."""
    seed: int = 0
    """Seed of the answer's draws."""
    sample: int = 0
    """Number of this answer among those to the same prompt."""


@dataclass(frozen=True)
class Answer:
    """The tokens of an answer."""

    tokens: tuple[int, ...]
    """Generated tokens, with the end token."""
    stopped: bool
    """Whether it ended by itself, with an end token or a stop string."""
    logprobs: tuple[float, ...] | None = None
    """Log-probability (nats) of each token in the model's own distribution; None if not asked for."""


@dataclass
class Limits:
    """How many rows are computed together; lowered when memory runs out, for all that follows."""

    rows: int | None = None
    """Most rows; None: any number."""
    tokens: int | None = None
    """Most tokens of all rows together, each with its longest possible answer; None: any number."""

    def rows_of(self, longest: int) -> int:
        """Return how many rows of up to `longest` tokens fit; at least one."""
        by_tokens = self.tokens // longest if self.tokens else 2**31
        return max(1, min(self.rows or 2**31, by_tokens))

    def halve(self, rows: int) -> None:
        """Allow half of the rows that did not fit."""
        self.rows = max(1, min(self.rows or rows, rows) // 2)


@dataclass
class How:
    """How answers are decoded."""

    config: Any
    """A GenerationConfig with every setting; missing ones would be taken from the model's own file."""
    limits: Limits
    stops: StopStrings | None = None
    logprobs: bool = False
    numbers_only: bool = False
    """Raise NumericError for logits that are not numbers."""
    padding: int = 0
    """Token of padding; it is masked, so any will do."""
    trained: bool = False
    """Whether the model is being trained: nothing that it keeps may come from inference mode."""
    ends: frozenset[int] = field(init=False)
    """Tokens that end an answer."""

    def __post_init__(self) -> None:
        told = self.config.eos_token_id
        self.ends = frozenset(told if isinstance(told, list | tuple) else [told]) - {None}

    def computing(self) -> AbstractContextManager[Any]:
        """Return the context in which the model computes: without gradients."""
        return torch.no_grad() if self.trained else torch.inference_mode()
