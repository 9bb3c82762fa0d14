"""Reward that verl's own function for a row's data source gives, without verl.

The column data_source says by which rule a row's answer is scored (steps/tasks/rules/verl_sources.py has the names):

    gsm8k, math, dapo, search   by the text: source_rules.py
    numina, geometry            by mathematics, in a process with limits: stated_math.py and graded_math.py
    code                        by tests, in the sandbox: source_tests.py

Where the values differ from verl's, and why, is told in docs/rewards.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field

from steps.errors import Problem, UserError, shown
from steps.params.group import Group
from steps.rewards import source_rules, source_tests, stated_math
from steps.rewards.library import Function, Judged, by_row
from steps.rewards.sandbox import Limits
from steps.tasks.rules.verl_sources import KNOWN, family_of, like, truth_for

SOURCE, TRUTH = "data_source", "ground_truth"
Judge = Callable[[str, Any], Judged]


class Options(Group):
    """What one answer may use; none of them changes the reward of an answer that needs less."""

    timeout_seconds: float = Field(10.0, ge=0.1, le=60)
    """Computing time of one comparison of formulas; an answer on which it runs out is wrong."""

    test_seconds: int = Field(10, ge=1, le=600)
    """Computing time of one test of a program; on the clock it may take four times as long."""

    memory_mib: int = Field(512, ge=64)
    """Memory of one test of a program."""

    processes: int = Field(2, ge=1, le=64)
    """Tests of a program that run at the same time."""


def columns(options: Options) -> tuple[str, ...]:
    """Return the columns of the right answer and of its source."""
    return (TRUTH, SOURCE)


def reward(options: Options) -> Function:
    """Return the reward; None without a right answer.

    The function raises UserError for a source or a right answer that it cannot score by, and SecurityRefusal for the
    programs of a row where there is no sandbox.
    """
    limits = Limits(options.test_seconds, options.memory_mib)
    rules: dict[str, Judge] = {
        "gsm8k": source_rules.gsm8k,
        "math": source_rules.math,
        "dapo": source_rules.dapo,
        "search": source_rules.search,
        "numina": lambda text, truth: stated_math.numina(text, truth, options.timeout_seconds),
        "geometry": lambda text, truth: stated_math.geometry(text, truth, options.timeout_seconds),
        "code": lambda text, truth: source_tests.judge(text, truth, limits, options.processes),
    }

    def judge(text: str, truth: Any, source: Any) -> Judged:
        family = family_of(source)
        if family is None:
            raise UserError(
                Problem("REWARD-E0231", f"reward by_source, {SOURCE}", shown(source), KNOWN,
                        like(source) if isinstance(source, str) and source else "name the source of every row")
            )  # fmt: skip
        if truth is None:
            return Judged(None)
        given = truth_for(source, truth)
        if wanted := _unfit(family, given):
            raise UserError(
                Problem("REWARD-E0232", f"reward by_source, {TRUTH} of {source}", shown(truth), wanted,
                        "correct the right answers")
            )  # fmt: skip
        return rules[family](text, given)

    return by_row(judge, columns(options))


def _unfit(family: str, truth: Any) -> str:
    """Return what the right answer of a family must be, if it is not; empty if it is."""
    if family == "search":
        return "" if source_rules.targets_of(truth) is not None else 'an object such as {"target": ["Paris"]}'
    if family == "code":
        return (
            "" if source_tests.tests_in(truth) is not None else 'an object such as {"inputs": ["1"], "outputs": ["2"]}'
        )
    return "" if isinstance(truth, str) else "a text"
