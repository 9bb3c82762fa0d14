"""Reward of a length near a target: 1 at the target, falling in a straight line to 0 at none and at twice of it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from steps.errors import Problem, UserError
from steps.params.group import Group
from steps.rewards.library import Function
from steps.rewards.texts import text_of

Unit = Literal["words", "characters", "tokens"]


class Options(Group):
    """The target."""

    target: int = Field(100, ge=1)
    """Length that is rewarded most, in `unit`."""

    unit: Unit = "words"
    """What is counted; tokens are the model's own."""


def columns(options: Options) -> tuple[str, ...]:
    """Return no column: only the completion is read."""
    return ()


def reward(options: Options) -> Function:
    """Return the reward max(0, 1 - |length - target| / target)."""

    def call(completions: list[Any], completion_ids: list[Any] | None = None, **_: Any) -> list[float | None]:
        counts = lengths(completions, completion_ids, options.unit)
        return [max(0.0, 1.0 - abs(count - options.target) / options.target) for count in counts]

    return call


def lengths(completions: list[Any], completion_ids: list[Any] | None, unit: Unit) -> list[int]:
    """Return the length of every completion. Raises UserError if tokens are to be counted and there are none."""
    if unit == "tokens":
        if completion_ids is None:
            raise UserError(
                Problem("REWARD-E0219", "unit", "tokens, but only texts are at hand", "words or characters",
                        "set unit to words or characters, or pass completion_ids")
            )  # fmt: skip
        return [len(ids) for ids in completion_ids]
    texts = [text_of(completion) for completion in completions]
    return [len(text.split()) if unit == "words" else len(text) for text in texts]
