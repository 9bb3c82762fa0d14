"""Read the parameters of a sweep: those of all trials by themselves, and each trial as a run of its pipeline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from steps.errors import Problem, UserError, shown
from steps.params.group import merged, old_names
from steps.params.pipelines import PARAMETER_MODELS, SWEEP
from steps.params.reading import Reading, read_each, read_parameters, refused
from steps.params.sweep import SweepParams, not_varied


def read_sweep(name: str, arguments: dict[str, Any]) -> Reading:
    """Check the parameters of a sweep as `read_parameters` does those of a pipeline, and each trial with them.

    Raises SecurityRefusal, or UserError with the problems of all trials, each told once.
    """
    reading, problems, _ = read_each(name, arguments)
    if problems:
        raise UserError(problems)
    asked, own = split(arguments)
    pipeline = name.removesuffix(SWEEP)
    found = alike_problems(pipeline, asked.trials)
    for number, trial in enumerate(asked.trials):
        try:
            read_parameters(pipeline, of_trial(pipeline, own, trial))
        except UserError as error:
            for problem in error.problems:
                found.setdefault(problem, []).append(number)
    if found:
        raise UserError(told_once(found, len(asked.trials)))
    return reading


def of_trial(pipeline: str, own: dict[str, Any], trial: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of one trial; `own` are those of all trials, as `split` returns them."""
    values = {name: value for name, value in trial.items() if name not in SweepParams.model_fields}
    return {**own, "overrides": merged(PARAMETER_MODELS[pipeline], own["overrides"], values)}


def split(arguments: dict[str, Any]) -> tuple[SweepParams, dict[str, Any]]:
    """Split the arguments into those of the sweep and those of its pipeline; `overrides` may hold both.

    Raises UserError for wrong parameters of the sweep, and for no trials.
    """
    overrides = dict(arguments.get("overrides") or {})
    given = {**arguments, **{name: overrides.pop(name) for name in SweepParams.model_fields if name in overrides}}
    values = {name: given.pop(name) for name in SweepParams.model_fields if name in given}
    for name, value in values.items():  # KFP passes every number inside a dict as a float
        values[name] = int(value) if isinstance(value, float) and value.is_integer() else value
    try:
        asked = SweepParams(**values)
    except ValidationError as error:
        raise UserError(_of_sweep(detail) for detail in error.errors()) from None
    if not asked.trials:
        raise UserError(
            Problem("SWEEP-E0201", "trials", "none", "a list with one JSON object for each trial",
                    'write it as [{"learning_rate": 1e-5}, {"learning_rate": 1e-4}]')
        )  # fmt: skip
    return asked, {**given, "overrides": overrides}


def _of_sweep(detail: Any) -> Problem:
    """Turn pydantic's error about a parameter of the sweep into a Problem; of a list it names the trial."""
    if detail["loc"][0] != "trials" or len(detail["loc"]) < 2:
        return refused(SweepParams, detail)
    return Problem("SWEEP-E0202", f"trial {detail['loc'][1]}", shown(detail["input"]),
                   "a JSON object of parameters by name", 'write it as {"learning_rate": 1e-5}')  # fmt: skip


def alike_problems(pipeline: str, trials: list[dict[str, Any]]) -> dict[Problem, list[int]]:
    """Return the problems of parameters that cannot differ between trials, with the trials of each."""
    names = old_names(PARAMETER_MODELS[pipeline])
    found: dict[Problem, list[int]] = {}
    for number, trial in enumerate(trials):
        for given in trial:
            name = names.get(given, given)
            why = not_varied(name) or ("it describes the sweep" if name in SweepParams.model_fields else "")
            if why:
                problem = Problem("SWEEP-E0203", given, "a value for one trial", "one value for all trials",
                                  f"set {given} beside the trials", why=why)  # fmt: skip
                found.setdefault(problem, []).append(number)
    return found


def told_once(found: dict[Problem, list[int]], count: int) -> Iterable[Problem]:
    """Name the trials of each problem, unless all have it."""
    for problem, numbers in found.items():
        yield replace(problem, where=f"{named(numbers, count)}{problem.where}")


def named(numbers: list[int], count: int) -> str:
    """Return "trials 1 and 3: ", in front of what they have in common; empty if those are all of `count`."""
    if len(set(numbers)) == count and count > 1:
        return ""
    *first, last = sorted(set(numbers))
    return f"trials {', '.join(map(str, first))} and {last}: " if first else f"trial {last}: "
