"""Soft punishment of completions that are too long (DAPO, arXiv 2503.14476, equation 13).

0 up to max_length - buffer, then falling in a straight line to -1 at max_length, and -1 beyond it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from steps.errors import Problem
from steps.params.group import Group
from steps.rewards.length import Unit, lengths
from steps.rewards.library import Function


class Options(Group):
    """Where the punishment starts and ends."""

    max_length: int = Field(256, ge=1)
    """Length from which the whole punishment holds; usually max_completion_length."""

    buffer: int = Field(64, ge=1)
    """Length before it over which the punishment grows."""

    unit: Unit = "tokens"
    """What is counted; tokens are the model's own."""

    def conflicts(self) -> Iterator[Problem]:
        """Yield the problem of a buffer that is longer than the completion."""
        if self.buffer > self.max_length:
            yield Problem("REWARD-E0220", "buffer", str(self.buffer), f"at most max_length={self.max_length}",
                          "lower buffer, or raise max_length")  # fmt: skip


def columns(options: Options) -> tuple[str, ...]:
    """Return no column: only the completion is read."""
    return ()


def reward(options: Options) -> Function:
    """Return the reward, from -1 to 0."""
    free = options.max_length - options.buffer

    def call(completions: list[Any], completion_ids: list[Any] | None = None, **_: Any) -> list[float | None]:
        counts = lengths(completions, completion_ids, options.unit)
        return [min(0.0, max(-1.0, (free - count) / options.buffer)) for count in counts]

    return call
