"""The form of a compiled pipeline: which parameters are its inputs, and the values of all others.

KFP's user interface shows every input in alphabetical order, and its driver writes all of them several times into the
object that describes a run. A pipeline of a team needs few: `finetune compile PIPELINE -f experiment.yaml --inputs a,b`
keeps those, with their types and choices, and bakes the file in. `overrides` still takes any parameter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.catalog import PIPELINES, Published
from pipelines.placeholders import refuse_placeholders
from steps.errors import Problem, UserError, nearest, shown
from steps.params.pipelines import SWEEP, sweep_model
from steps.params.reading import read_some
from steps.running import STEPS

OVERRIDES = "overrides"
# kfp would load a component instead of a pipeline with its name.
TAKEN = {
    *(step.replace("-", "_") for step in STEPS),
    *PIPELINES,
    *(f"{name}{kind}" for name in PIPELINES for kind in ("_short", SWEEP)),
}
NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")


@dataclass(frozen=True)
class Form:
    """Inputs of a compiled pipeline and its fixed values."""

    name: str
    """Name of the compiled pipeline; its plan keeps the name of the pipeline that it is a form of."""
    inputs: tuple[str, ...]
    """Names of the parameters that stay inputs."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Values that differ from the default, of any parameter; of an input it is the default."""


def short_form(published: Published) -> Form:
    """Return the form with the inputs that most runs need."""
    return Form(f"{published.name}_short", (*published.parameters.short_inputs, OVERRIDES))


def sweep_form(name: str) -> Form:
    """Return the form of a compiled sweep: the trials, and the inputs that most runs need."""
    return Form(name, (*sweep_model(name).short_inputs, OVERRIDES))


def form_of(published: Published, name: str, inputs: Iterable[str], given: Mapping[str, Any]) -> Form:
    """Return the form that a user describes. Raises UserError with every problem of its name, inputs and values.

    Raises SecurityRefusal for values that look like a secret or that kfp would expand.
    """
    refuse_placeholders(given)
    problems: list[Problem] = []
    known = published.parameters.model_fields
    wanted = [part.strip() for part in inputs if part.strip()]
    for unknown in [part for part in wanted if part not in known]:
        fix = nearest(unknown, known) or f"see `finetune describe {published.name}`"
        problems.append(Problem("COMPILE-E0104", "--inputs", shown(unknown), f"a parameter of {published.name}", fix))
    if not NAME.fullmatch(name):
        problems.append(Problem("COMPILE-E0105", "--name", shown(name), "small letters, digits and _", "correct it"))
    if name in TAKEN:
        problems.append(
            Problem("COMPILE-E0107", "--name", shown(name), "a name of your own", "choose another",
                    why="a pipeline or a step has this name")
        )  # fmt: skip
    try:
        fixed = read_some(published.name, dict(given))
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(problems)
    return Form(name, tuple(dict.fromkeys((*wanted, OVERRIDES))), fixed)
