"""A value of the right type for every input of a compiled pipeline, from the parameters that a user gave.

The backend compares types strictly, and its interface shows inputs that were not sent as blanks ("Clone run",
"Compare"). So every input is sent, with the type that the compiled file declares.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.client.packages import Input, Package
from pipelines.kfp_values import kfp_value, our_value
from pipelines.placeholders import refuse_placeholders
from steps.errors import Problem, UserError, nearest, shown
from steps.params.group import merged
from steps.params.pipelines import is_sweep
from steps.params.reading import Reading, defaults, read_parameters
from steps.params.sweep_reading import read_sweep

OVERRIDES = "overrides"


@dataclass(frozen=True)
class Values:
    """Checked values for a run."""

    inputs: dict[str, Any]
    """A value for every input of the compiled pipeline."""
    changed: tuple[str, ...]
    """The inputs whose value is not the compiled default."""
    arguments: dict[str, Any]
    """The same for the plan: the parameters that differ from the pipeline's own defaults."""
    warnings: tuple[str, ...]
    """One line for each translated or ignored argument."""


def values_for(package: Package, given: Mapping[str, Any]) -> Values:
    """Check the parameters that a user gave, as `finetune run` does, and return a value for every input.

    Raises SecurityRefusal for values that look like secrets, and UserError with every problem.
    """
    if package.published is None:
        raise TypeError("the values of a package that is no published pipeline cannot be checked")
    published = package.published
    refuse_placeholders(given)
    declared = defaults(published.parameters)
    fields = published.parameters.model_fields
    usual = {name: our_value(fields[name], made.default) for name, made in package.inputs.items() if name in fields}
    compiled = {name: value for name, value in usual.items() if _differs(value, declared, name)}
    asked_for = {name: our_value(fields[name], value) if name in fields else value for name, value in given.items()}
    read = read_sweep if is_sweep(published.name) else read_parameters
    reading = read(published.name, merged(published.parameters, compiled, asked_for))
    effective = reading.parameters.model_dump(mode="json")
    asked = {name: effective[name] for name in declared if name != OVERRIDES and _asked(reading, declared, name)}
    problems: list[Problem] = []
    inputs = {}
    for name, made in package.inputs.items():
        if name != OVERRIDES:
            inputs[name] = _typed(name, kfp_value(fields[name], asked.get(name, declared[name])), made, problems)
    if OVERRIDES in package.inputs:
        inputs[OVERRIDES] = {name: value for name, value in asked.items() if name not in package.inputs}
    if problems:
        raise UserError(problems)
    changed = tuple(name for name, value in inputs.items() if value != package.inputs[name].default)
    return Values(inputs, changed, asked, tuple(reading.warnings))


def kfp_command(endpoint: str, namespace: str, token: bool, run: list[str], values: Values, package: Package) -> str:
    """Return the command of kfp that starts the same run; the inputs that it leaves out have these values by default.

    kfp reads each value as JSON if it can, so a text that looks like JSON stands in quotes.
    """
    words = ["kfp"]
    words += ["--endpoint", endpoint] if endpoint else []
    words += ["--namespace", namespace] if namespace else []
    line = shlex.join(words) + (' --existing-token "$KF_PIPELINES_TOKEN"' if token else "")
    pairs = [f"{name}={_word(values.inputs[name])}" for name in values.changed]
    return f"{line} {shlex.join(['run', 'create', *run, *pairs])}"


def _word(value: Any) -> str:
    from kfp.cli.utils.parsing import parse_parameter_value

    if isinstance(value, str) and parse_parameter_value(value) == value:
        return value
    return json.dumps(value)


def _differs(value: Any, declared: Mapping[str, Any], name: str) -> bool:
    """Return whether a compiled default is not the pipeline's own: a profile, or a form, has set it."""
    return name != OVERRIDES and name in declared and value != declared[name]


def _asked(reading: Reading, declared: Mapping[str, Any], name: str) -> bool:
    return bool(reading.requested[name] != declared[name])


def _typed(name: str, value: Any, made: Input, problems: list[Problem]) -> Any:
    """Return a value with the type of its input; adds a problem for one that the backend would refuse."""
    try:
        typed = _converted(value, made.kind)
    except (TypeError, ValueError):
        problems.append(Problem("CLIENT-E0107", name, shown(value), _kind(made.kind), "correct it"))
        return value
    if made.choices and typed not in made.choices:
        choices = ", ".join(str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in made.choices)
        fix = nearest(str(typed), map(str, made.choices)) or f"set {name} to one of them"
        problems.append(Problem("CLIENT-E0108", name, shown(value), f"one of {choices}", fix))
    return typed


def _converted(value: Any, kind: str) -> Any:
    if kind == "STRING":
        if isinstance(value, bool):
            return str(value).lower()
        return value if isinstance(value, str) else json.dumps(value)
    if kind == "BOOLEAN":
        word = str(value).lower()
        if word not in ("true", "false"):
            raise ValueError(value)
        return word == "true"
    if kind == "NUMBER_DOUBLE":
        return float(value)
    if kind == "NUMBER_INTEGER":
        number = float(value)
        if number != int(number):
            raise ValueError(value)
        return int(value) if isinstance(value, int) else int(number)
    if kind in ("STRUCT", "LIST") and not isinstance(value, dict if kind == "STRUCT" else list):
        raise TypeError(value)
    return value


def _kind(kind: str) -> str:
    return {"NUMBER_DOUBLE": "a number", "NUMBER_INTEGER": "a whole number", "BOOLEAN": "true or false",
            "STRUCT": "an object", "LIST": "a list"}.get(kind, "a text")  # fmt: skip
