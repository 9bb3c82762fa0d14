"""The library's table of rewards, and what its modules have in common."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

from steps.rewards.texts import shortened, text_of

# Name → module. A reward is imported when it is asked for.
REWARDS = {
    "format": "steps.rewards.format",
    "think_format": "steps.rewards.think_format",
    "accuracy": "steps.rewards.multiple_choice",  # the name in Azure's GRPO component
    "multiple_choice": "steps.rewards.multiple_choice",
    "exact_answer": "steps.rewards.exact_answer",
    "numeric_answer": "steps.rewards.numeric_answer",
    "math": "steps.rewards.mathematics",
    "regex": "steps.rewards.regular_expression",
    "json_schema": "steps.rewards.json_schema",
    "length": "steps.rewards.length",
    "overlong": "steps.rewards.overlong",
    "repetition": "steps.rewards.repetition",
    "code": "steps.rewards.code_tests",
    "by_source": "steps.rewards.by_source",
    "reward_model": "steps.rewards.reward_model",
}

# What every reward can take beside the columns of the data, as TRL 1.16 passes it.
GIVEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")

Function = Callable[..., Any]
"""Called by keyword with lists of one entry per completion; returns a list of numbers, None where it does not apply."""


@dataclass(frozen=True)
class Judged:
    """The reward of one completion, and the answer that was found in it, for the table of completions."""

    reward: float | None
    answer: str | None = None


def module_of(name: str) -> ModuleType:
    """Return the module of a reward of the library."""
    return importlib.import_module(REWARDS[name])


def by_row(judge: Callable[..., Judged], columns: Iterable[str] = ()) -> Function:
    """Make a reward function from one that judges a single text and the row's values of `columns`."""
    return partial(_judge_rows, judge, tuple(columns))


def _judge_rows(
    judge: Callable[..., Judged],
    columns: tuple[str, ...],
    completions: list[Any],
    log_extra: Callable[[str, list[Any]], None] | None = None,
    **values: Any,
) -> list[float | None]:
    rows = zip(completions, *(values[column] for column in columns), strict=True)
    judged = [judge(text_of(completion), *more) for completion, *more in rows]
    if log_extra and any(one.answer is not None for one in judged):
        log_extra("answer", [None if one.answer is None else shortened(one.answer) for one in judged])
    return [one.reward for one in judged]
