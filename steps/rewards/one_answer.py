"""The user's own reward with verl's signature, which judges one answer at a time.

    def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
        return 1.0          # or {"score": 1.0, "acc": True}

Its argument solution_str tells it from a reward of columns. user_reward.py calls it for each completion, and verl's own
processes call it through steps/verl; what both have in common is here.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from steps.errors import Problem, UserError, shown
from steps.rewards.library import GIVEN
from steps.rewards.scoring import is_finite
from steps.sources.user_code import LoadedFunction
from steps.tasks.rules.verl_sources import truth_for

SOLUTION = "solution_str"
COLUMNS = ("data_source", "ground_truth")
NAMES = (*COLUMNS, SOLUTION, "extra_info")
"""What it can be called with."""


def judges_one_answer(arguments: ast.arguments) -> bool:
    """Return whether a function with these arguments has verl's signature."""
    return SOLUTION in _named(arguments)


def arguments_for(
    arguments: ast.arguments, text: str, row: Mapping[str, Any], more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what a function is called with: of these what it names, or everything if it has **kwargs.

    `row` has data_source, ground_truth and the columns that become extra_info; `more` what verl passes besides.
    """
    given: dict[str, Any] = {name: row[name] for name in COLUMNS if name in row}
    if "ground_truth" in given:
        given["ground_truth"] = truth_for(str(given.get("data_source")), given["ground_truth"])
    info = {name: value for name, value in row.items() if name not in (*COLUMNS, *GIVEN)}
    given |= {**(more or {}), SOLUTION: text, "extra_info": info}
    names = _named(arguments)
    return {name: value for name, value in given.items() if arguments.kwarg or name in names}


def score_in(made: Any, loaded: LoadedFunction, row: str) -> dict[str, Any]:
    """Return what a function returned as an object with `score`, a finite number, beside its other values.

    Raises UserError with the row, which stands in the message, for anything else.
    """
    told: dict[str, Any] = made if isinstance(made, dict) else {"score": made}
    score: Any = told.get("score")
    if not is_finite(score):
        raise UserError(
            Problem("REWARD-E0234", f"{loaded.uri}:{loaded.name}, {row}", shown(made),
                    "a finite number up to 1e18, or an object with such a number as score", "correct the function")
        )  # fmt: skip
    return {**told, "score": float(score)}


def _named(arguments: ast.arguments) -> list[str]:
    return [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
