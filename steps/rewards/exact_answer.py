"""Reward of an answer that equals the right one as text.

Both are compared in Unicode's form NFKC, with white space collapsed and without quotes, emphasis or a full stop around
them. The right answer may be a list: any of its texts is right.
"""

from __future__ import annotations

import unicodedata
from typing import Any

from steps.params.group import Group
from steps.rewards.library import Function, Judged, by_row
from steps.rewards.texts import answers_in, without_thoughts

_AROUND = " *_`\"'“”‘’«»"


class Options(Group):
    """What counts as equal."""

    column: str = "ground_truth"
    """Column with the right answer, or a list of right answers."""

    ignore_case: bool = True
    """Compare without upper and lower case."""

    whole_text: bool = False
    """Compare everything behind the thoughts, instead of the answer that is stated in it."""


def columns(options: Options) -> tuple[str, ...]:
    """Return the column of the right answer."""
    return (options.column,)


def reward(options: Options) -> Function:
    """Return the reward: 1 if every stated answer is right, else 0; None without a right answer."""

    def judge(text: str, truth: Any) -> Judged:
        given = truth if isinstance(truth, list | tuple) else [truth]
        right = {plain for one in given if one is not None and (plain := _plain(_as_text(one), options))}
        answers = [without_thoughts(text).strip()] if options.whole_text else answers_in(text)
        correct = all(_plain(answer, options) in right for answer in answers)
        return Judged(float(correct) if right else None, answers[0])

    return by_row(judge, columns(options))


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _plain(text: str, options: Options) -> str:
    text = " ".join(unicodedata.normalize("NFKC", text).split())
    text = text.strip(_AROUND).removesuffix(".").strip(_AROUND)
    return unicodedata.normalize("NFKC", text.casefold()) if options.ignore_case else text
