"""Checks every trial of a sweep that is known before the first one starts."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.local import environment
from pipelines.sweeping.described import GRID, LISTED, Described, WrongSweep
from pipelines.sweeping.search import Search
from steps.errors import Problem, UserError
from steps.params.pipelines import SWEEP
from steps.params.sweep_reading import named
from steps.running import load, run_here


def is_known(described: Described) -> bool:
    """Return whether all trials are known before the first one starts; a sampler chooses them one by one."""
    return described.search in (GRID, LISTED)


def known_trials(described: Described) -> list[dict[str, Any]]:
    """Return the trials to plan first: all of them, or, of a sampler, those with the ends of its space."""
    search = Search(described)
    if not is_known(described):
        return search.corners()
    trials: list[dict[str, Any]] = []
    while (asked := search.ask([{"number": place} for place in range(len(trials))])) is not None:
        trials.append(asked)
    return trials


def plan_trials(described: Described, trials: list[dict[str, Any]], name: str, place: Path) -> Any:
    """Plan trials into the folder `place`, and return the plan's outputs. Raises the plan's StepError."""
    pipeline = f"{described.pipeline}{SWEEP}"
    arguments = {"overrides": {**described.parameters, **described.own(name, trials)}}
    return run_here("plan", pipeline=pipeline, arguments=arguments, plan=place, report=place.with_suffix(".html"))


TRIALS = re.compile(r"trials? (\d+(?:, \d+)*(?: and \d+)?): ")


@contextlib.contextmanager
def all_told(root: Path) -> Iterator[None]:
    """Add to the problems of wrong values those that the plan finds in all other trials.

    Raises UserError with both.
    """
    try:
        yield
    except WrongSweep as wrong:
        more: list[Problem] = []
        if wrong.rest:
            try:
                check(wrong.rest, root)
            except UserError as error:
                more = [_numbered(one, wrong.numbers) for one in error.problems]
            except Exception:  # an outage, or a fault that follows from the wrong values
                more = []
        known = {(one.where, one.found) for one in wrong.problems}
        raise UserError([*wrong.problems, *(one for one in more if (one.where, one.found) not in known)]) from None


def _numbered(problem: Problem, numbers: list[int]) -> Problem:
    """Give the trials in front of a problem the numbers that they have in the whole sweep; without any, no number."""
    if not (found := TRIALS.match(problem.where)):
        return problem
    where = problem.where[found.end() :]
    if numbers:
        which = [numbers[int(one)] for one in re.findall(r"\d+", found[1])]
        where = f"{named(which, 0)}{where}"
    return replace(problem, where=where)


def check(described: Described, root: Path) -> str:
    """Plan a sweep without starting it; return the plan as text. Raises StepError with all problems of all trials."""
    return plan_as_text(described, planned(described, root))


def planned(described: Described, root: Path) -> dict[str, Any]:
    """Plan a sweep without starting it; return plan.json. Raises StepError with all problems of all trials.

    Of a sampler it has the trials with the ends of every range.
    """
    with tempfile.TemporaryDirectory() as scratch, environment(root):
        place = Path(scratch, "plan")
        try:
            plan_trials(described, known_trials(described), described.name, place)
        except UserError as error:
            if is_known(described):
                raise
            raise UserError([_numbered(one, []) for one in error.problems]) from None  # no trial has a number yet
        return dict(json.loads((place / "plan.json").read_text("utf-8")))


def plan_as_text(described: Described, summary: dict[str, Any]) -> str:
    """Format the plan of a sweep for a terminal."""
    if is_known(described):
        return str(load("sweep-as-text")(summary))
    search = Search(described)
    return str(load("sampled-as-text")(summary, described.search, search.total, search.note))
