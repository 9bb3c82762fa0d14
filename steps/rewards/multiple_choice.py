"""Reward of the right letter in multiple choice.

The answer stands in <answer> tags, after "Final Answer:" or "answer is", in \\boxed{}, or on the last line
(`texts.answers_in`). `C`, `(C)`, `**C**`, `"C"`, `C. Paris`, `C) Paris`, `Option C` and `\\text{C}` all mean C. A text
that names two letters ("A or B"), or whose <answer> and `Final Answer` differ, contradicts itself and earns 0. A
lower-case letter counts where it stands alone. "A good question" names no letter.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field

from steps.params.group import Group
from steps.rewards.library import Function, Judged, by_row
from steps.rewards.texts import answers_in, last_line

_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed)\s*\{([^{}]*)\}")
_AROUND = " \t\r\n*_`\"'“”‘’«»$()[]{}<>.,;:!"
LONGEST = 1000  # characters of one answer; longer ones are no letter


class Options(Group):
    """Which letters there are, and where the right one stands."""

    choices: str = Field("ABCD", pattern=r"^[A-Z]{2,26}$")
    """The letters that can be chosen."""

    column: str = "ground_truth"
    """Column with the right letter, in any form that an answer may have."""


def columns(options: Options) -> tuple[str, ...]:
    """Return the column of the right letter."""
    return (options.column,)


def reward(options: Options) -> Function:
    """Return the reward: 1 for the right letter, 0 for another one or none, None without a right letter."""

    def judge(text: str, truth: Any) -> Judged:
        right = letter_in(truth, options.choices) if isinstance(truth, str) else None
        found = [letter_of(answer, options.choices) for answer in answers_in(text)]
        answer = found[0] if len(set(found)) == 1 else None
        return Judged(None if right is None else float(answer == right), answer or "")

    return by_row(judge, columns(options))


def letter_in(text: str, choices: str) -> str | None:
    """Return the letter that a text states; None if there is none or it contradicts itself."""
    found = {letter_of(answer, choices) for answer in answers_in(text)}
    return found.pop() if len(found) == 1 else None


def letter_of(answer: str, choices: str) -> str | None:
    """Return the letter that one answer names; None if it names none or several."""
    if len(answer) > LONGEST:
        return None
    answer = _WRAPPED.sub(r" \1 ", _WRAPPED.sub(r" \1 ", answer))
    bare = answer.strip(_AROUND)
    if len(bare) == 1:
        return bare.upper() if bare.upper() in choices else None
    line = last_line(answer).strip(" \t*_`\"'“”‘’$")
    one = f"[{choices}]"
    leading = re.match(rf"[(\[]?({one})[*_]*(?:[).:,\]]|\s+[-–—(])", line)
    named = re.search(rf"\b(?i:option|choice|answer)\b[\s:*_\"'(\[]*(?:(?i:is)\b[\s:*_\"'(\[]*)?({one})(?!\w)", line)
    match = leading or named
    if not match:
        return None
    another = rf"[*_)\].,\s]*(?:[,/&]|\b(?i:or|and|und|oder)\b)\W*{one}\b"  # "A or B", "A, B"
    return None if re.match(another, line[match.end(1) :]) else match[1]
