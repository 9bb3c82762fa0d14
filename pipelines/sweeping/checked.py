"""Checks every trial of a sweep that is known before the first one starts."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from pipelines.local import environment
from pipelines.sweeping.described import GRID, LISTED, Described
from pipelines.sweeping.search import Search
from steps.params.pipelines import SWEEP
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


def arguments_of(described: Described, trials: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return the arguments of the plan of these trials."""
    own = {"trials": trials, "parallelism": described.max_parallel, "sweep_metric": described.metric,
           "pruner": described.pruner, "sweep_name": name}  # fmt: skip
    return {"overrides": {**described.parameters, **own}}


def plan_trials(described: Described, trials: list[dict[str, Any]], name: str, place: Path) -> Any:
    """Plan trials into the folder `place`, and return the plan's outputs. Raises the plan's StepError."""
    pipeline = f"{described.pipeline}{SWEEP}"
    arguments = arguments_of(described, trials, name)
    return run_here("plan", pipeline=pipeline, arguments=arguments, plan=place, report=place.with_suffix(".html"))


def check(described: Described, root: Path) -> str:
    """Plan a sweep without starting it; return the plan as text. Raises StepError with all problems of all trials."""
    with tempfile.TemporaryDirectory() as scratch, environment(root):
        place = Path(scratch, "plan")
        plan_trials(described, known_trials(described), described.name, place)
        summary = json.loads((place / "plan.json").read_text("utf-8"))
    if is_known(described):
        return str(load("sweep-as-text")(summary))
    count = len(summary["sweep"]["trials"])
    return (
        f"sweep of {described.pipeline} by {described.search}: {Search(described).total} trials, chosen one by one; "
        f"{count} with the ends of every range were checked"
    )
