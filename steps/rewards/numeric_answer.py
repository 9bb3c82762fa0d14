"""Reward of a number that equals the right one within a tolerance.

The number is the last one of the answer that the text states (`texts.answers_in`); how numbers, fractions, percent and
units are read and compared is in `numerals.py`.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from pydantic import Field

from steps.params.group import Group
from steps.rewards.library import Function, Judged, by_row
from steps.rewards.numerals import Quantity, last_quantity, same
from steps.rewards.texts import answers_in

LONGEST = 10_000  # characters of one answer that are read, from its end


class Options(Group):
    """What counts as equal."""

    column: str = "ground_truth"
    """Column with the right number, as a number or as text with or without a unit."""

    relative_tolerance: float = Field(1e-6, ge=0, le=1)
    """Largest distance, as a share of the right number."""

    absolute_tolerance: float = Field(0.0, ge=0)
    """Largest distance; the larger of both tolerances holds."""

    decimal_comma: bool = False
    """Read 1,234 as 1.234 and 1.234 as 1234; otherwise as 1234 and 1.234."""


def columns(options: Options) -> tuple[str, ...]:
    """Return the column of the right number."""
    return (options.column,)


def reward(options: Options) -> Function:
    """Return the reward: 1 if every stated answer is the right number, else 0; None without a right number."""
    relative, absolute = Fraction(options.relative_tolerance), Fraction(options.absolute_tolerance)

    def judge(text: str, truth: Any) -> Judged:
        right = _truth(truth, options.decimal_comma)
        answers = answers_in(text)
        read = [last_quantity(answer[-LONGEST:], options.decimal_comma) for answer in answers]
        if right is None:
            return Judged(None, answers[0])
        return Judged(float(all(one is not None and same(one, right, relative, absolute) for one in read)), answers[0])

    return by_row(judge, columns(options))


def _truth(truth: Any, decimal_comma: bool) -> Quantity | None:
    if isinstance(truth, bool) or truth is None:
        return None
    if isinstance(truth, str):
        return last_quantity(answers_in(truth)[-1][-LONGEST:], decimal_comma)
    return last_quantity(str(truth))  # of a number, whose point is a decimal point
