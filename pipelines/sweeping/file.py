"""Reads sweep.yaml.

    pipeline: chat_completion
    config: run.yaml
    parameters: {num_train_epochs: 2}
    space:
      learning_rate: {low: 1e-5, high: 1e-3, log: true}
      lora_r: [4, 8, 16]
    search: tpe
    budget: 20

Where `config` and `parameters` both set a parameter, `parameters` wins.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.catalog import PIPELINES
from pipelines.configuration import Words, as_declared, read_config, written
from pipelines.flags import for_pipeline, parameters_in, plain_name
from pipelines.sweeping.described import Described, WrongSweep, describe
from pipelines.sweeping.space import SPACE_KEYS
from steps.errors import Problem, UserError, nearest, shown
from steps.params.group import Group, merged
from steps.params.reading import todays_name

OPTIONS = ("search", "budget", "metric", "pruner", "max_parallel", "seed", "name")
NUMBERS = ("budget", "max_parallel", "seed")
KEYS = ("pipeline", "config", "parameters", "space", "trials", *OPTIONS)
OTHER_KEYS = {
    "n_trials": "budget", "max_trials": "budget", "num_samples": "budget", "parallelism": "max_parallel",
    "parallel": "max_parallel", "sampler": "search", "algorithm": "search", "objective": "metric",
    "gate_metric": "metric", "search_space": "space", "fixed": "parameters", "params": "parameters",
    "method": "search", "early_stopping": "pruner",
}  # fmt: skip


def read_sweep(file: Path, pipeline: str = "", **given: Any) -> Described:
    """Read a sweep file and check all of it.

    `pipeline` and `given` (options of `describe`) come from the command line, and replace what the file says; the file
    may not name another pipeline. Raises UserError with every problem, and as `describe` does.
    """
    values, words = read_config(file)
    problems: list[Problem] = []
    base = _config(file, values.get("config"), plain_name(pipeline or values.get("pipeline")), problems)
    base_known = not problems
    known = _pipeline(file, values.get("pipeline"), pipeline, base.get("pipeline"), problems)
    model = PIPELINES[known].parameters if known else None
    problems += [_unknown(key, values[key], model) for key in values if key not in KEYS]
    if model is None:
        raise UserError(problems)
    count = len(problems)
    parameters = _parameters(known, base, values.get("parameters"), words, problems)
    base_known = base_known and len(problems) == count
    space, trials = _space(model, values.get("space"), words), _trials(model, values.get("trials"), words)
    options = {key: _option(key, values[key], words) for key in OPTIONS if values.get(key) is not None}
    options |= {key: value for key, value in given.items() if value is not None}
    try:
        described = describe(known, parameters, space, trials, **options)
    except WrongSweep as error:
        raise WrongSweep([*problems, *error.problems], error.rest if base_known else None, error.numbers) from None
    except UserError as error:
        raise UserError([*problems, *error.problems]) from None
    if problems:
        raise WrongSweep(problems, described if base_known else None, range(len(described.trials)))
    return described


def _config(file: Path, config: Any, pipeline: str, problems: list[Problem]) -> dict[str, Any]:
    """Return the parameters of the configuration file that a sweep file names."""
    if config is None:
        return {}
    if not isinstance(config, str) or not config:
        problems.append(Problem("SWEEP-E0163", "config", shown(config), "the path of a configuration file",
                                "write its path, relative to this file; parameters go below parameters"))  # fmt: skip
        return {}
    try:
        return parameters_in(file.parent / config, PIPELINES[pipeline].parameters if pipeline in PIPELINES else None)
    except UserError as error:
        problems += [_of_config(file, one) for one in error.problems]
        return {}


def _of_config(file: Path, problem: Problem) -> Problem:
    """Say that a problem is about the file that a sweep file names."""
    if problem.code != "CONFIG-E0101":
        return problem
    near = problem.fix.endswith("?")
    fix = problem.fix if near else "correct config, the path of a file as seen from the folder of the sweep file"
    return replace(problem, where=f"config in {file}: {problem.where}", fix=fix)


def _pipeline(file: Path, named: Any, asked: str, in_config: Any, problems: list[Problem]) -> str:
    """Return the name of the pipeline, which trains; empty, and a problem, without one."""
    trains = [name for name, one in PIPELINES.items() if one.trains]
    if asked and named is not None and plain_name(named) != plain_name(asked):
        problems.append(Problem("SWEEP-E0160", f"pipeline in {file}", shown(named), shown(asked),
                                "name the same pipeline, or leave it out in the file"))  # fmt: skip
    given = asked or named or in_config
    name = plain_name(given)
    if name in trains:
        return name
    idle = name in PIPELINES
    found = "nothing" if given is None else f"{name}, which trains nothing" if idle else shown(given)
    fix = "name a pipeline that trains" if idle else nearest(name, trains) or "write pipeline: and one of these names"
    problems.append(Problem("SWEEP-E0161", f"pipeline in {file}", found, f"one of {', '.join(trains)}", fix))
    return ""


def _unknown(key: str, value: Any, model: type[Group] | None) -> Problem:
    meant = OTHER_KEYS.get(key.lower())
    fix = f"did you mean {meant}?" if meant else nearest(key, KEYS)
    if model and todays_name(model, key) in model.model_fields and not meant:
        fix = f"write {key} below parameters, or below space with several values"
    return Problem("SWEEP-E0162", key, shown(value), f"one of the keys {', '.join(KEYS)}", fix or "remove it")


def _parameters(pipeline: str, base: dict[str, Any], own: Any, words: Words, problems: list[Problem]) -> dict[str, Any]:
    """Return what all trials share: the parameters of `config`, then those of the sweep file itself."""
    model = PIPELINES[pipeline].parameters
    if own is not None and not isinstance(own, dict):
        problems.append(Problem("SWEEP-E0164", "parameters", shown(own), "parameters by name",
                                "write lines like learning_rate: 1e-5"))  # fmt: skip
        own = None
    try:
        base = for_pipeline(pipeline, base)
        own = for_pipeline(pipeline, as_declared(model, own or {}, words, ("parameters",)))
    except UserError as error:
        problems += [_of_pipeline(pipeline, one) for one in error.problems]
        return {}
    return merged(model, base, own)


def _of_pipeline(pipeline: str, problem: Problem) -> Problem:
    """Say what to do in a sweep file about parameters that are those of another pipeline."""
    fix = f"name parameters of {pipeline}, or write the pipeline that they are for above the space"
    return replace(problem, fix=fix) if problem.code == "CONFIG-E0103" else problem


def _option(key: str, value: Any, words: Words) -> Any:
    """Return the value of an option; texts as they are written, such as 010 in a name."""
    return value if key in NUMBERS else words.get((key,), value)


def _space(model: type[Group], space: Any, words: Words) -> Any:
    """Return the space with each value as -p would pass it."""
    if not isinstance(space, dict):
        return space
    return {name: _entry(model, name, entry, words) for name, entry in space.items()}


def _entry(model: type[Group], name: str, entry: Any, words: Words) -> Any:
    field = model.model_fields.get(todays_name(model, name))
    place = ("space", name)
    if not isinstance(entry, dict):
        return written(field, entry, place, words)
    of_parameter = {key for key in entry if key in SPACE_KEYS and key != "log"}
    return {
        key: written(field, one, (*place, key), words) if key in of_parameter else one for key, one in entry.items()
    }


def _trials(model: type[Group], trials: Any, words: Words) -> Any:
    if not isinstance(trials, list):
        return trials
    return [
        as_declared(model, one, words, ("trials", number)) if isinstance(one, dict) else one
        for number, one in enumerate(trials)
    ]
