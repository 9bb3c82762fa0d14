"""Reward of a mathematically equal answer: 0.5 for \\frac{1}{2}, x+1 for 1+x, [1,2] for 1 ≤ x ≤ 2.

Compared by Math-Verify (sympy), in a process with limits of time and memory: 9^{9^{9^9}} is no answer. The answer is
what the text states (`texts.answers_in`), in LaTeX or plain; a text whose answers differ earns 0.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

from pydantic import Field

from steps.errors import Problem, UserError
from steps.params.group import Group
from steps.rewards.library import Function, Judged, by_row
from steps.rewards.texts import answers_in
from steps.rewards.worker import Worker

LONGEST = 2000  # characters of an answer


class Options(Group):
    """Where the right answer stands, and how long a comparison may take."""

    column: str = "ground_truth"
    """Column with the right answer, in LaTeX or plain, alone or at the end of a solution."""

    timeout_seconds: float = Field(5.0, ge=0.1, le=60)
    """Computing time of one comparison; an answer on which it runs out is wrong."""


def columns(options: Options) -> tuple[str, ...]:
    """Return the column of the right answer."""
    return (options.column,)


def reward(options: Options) -> Function:
    """Return the reward: 1 if every stated answer equals the right one, else 0; None without one that can be read."""
    if not importlib.util.find_spec("math_verify"):
        raise UserError(
            Problem("REWARD-E0229", "reward math", "no package math_verify", "Math-Verify in the image or environment",
                    "install math-verify, as in requirements.txt, or leave the reward math out")
        )  # fmt: skip
    worker = _worker(options.timeout_seconds)

    def judge(text: str, truth: Any) -> Judged:
        answers = answers_in(text)
        right = "" if truth is None or isinstance(truth, bool) else answers_in(str(truth))[-1]
        if not right or len(right) > LONGEST or not worker.run("readable", right):
            return Judged(None, answers[0])
        equal = all(0 < len(answer) <= LONGEST and worker.run("equal", right, answer) for answer in answers)
        return Judged(float(equal), answers[0])

    return by_row(judge, columns(options))


@cache
def _worker(seconds: float) -> Worker:
    return Worker("steps.rewards.math_verified:judge", seconds)
