"""Check the user's parameters and build a parameter model: translate old names and values, report all problems.

The plan, the command line and the tests all use this module, so they refuse a wrong value with the same message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from steps.errors import Problem, SecurityRefusal, UserError, nearest, shown
from steps.params.choice import OneOf
from steps.params.group import Group, Renamed, merged, old_names, renamed_in
from steps.params.other_arguments import RENAMED, set_aside
from steps.params.pipeline import PipelineParameters
from steps.params.pipelines import PARAMETER_MODELS, SWEEP, is_sweep, model_of
from steps.params.secrets import secret_in

MOST_NAMES = 1000  # parameters given at once; a pipeline has some hundred
HALF = re.compile("[\ud800-\udfff]")
LARGEST = 2**31  # above it, numbers of steps, rows and tokens do not fit into 32 bits


@dataclass(frozen=True)
class Translation:
    """A name or value that was replaced by its current one."""

    parameter: str
    requested: str
    effective: str
    by_user: bool
    """False if the parameter's default was translated: a line in the report, not a warning."""

    def __str__(self) -> str:
        return f"{self.parameter}: {self.requested!r} is read as {self.effective!r}"


@dataclass(frozen=True)
class Reading:
    """Checked parameters and the requested ones."""

    pipeline: str
    parameters: PipelineParameters
    requested: dict[str, Any]
    """Every parameter by name as requested, with defaults."""
    translations: tuple[Translation, ...]
    ignored: tuple[str, ...] = ()
    """A sentence for each argument of another system: what it means here, or why it has no effect."""

    @property
    def warnings(self) -> list[str]:
        """One line per translated name or value that the user gave, and per argument without effect."""
        return [*(str(translation) for translation in self.translations if translation.by_user), *self.ignored]


def read_parameters(pipeline: str, given: dict[str, Any]) -> Reading:
    """Check a pipeline's parameters; `given` may contain `overrides`, which take precedence.

    Raises SecurityRefusal for values that look like a secret, else UserError with every problem: unknown names (with
    the nearest), wrong types, values out of bounds, and conflicts between parameters.
    """
    if is_sweep(pipeline):  # `read_sweep` reads those
        raise _unknown_pipeline(pipeline)
    reading, problems, refused = read_each(pipeline, given)
    p = reading.parameters
    problems += [problem for problem in p.all_conflicts() if not any(problem.where.startswith(bad) for bad in refused)]
    if problems:
        raise UserError(problems)
    return reading


def read_some(pipeline: str, given: dict[str, Any]) -> dict[str, Any]:
    """Check parameters of which others are given later, so that conflicts between them cannot be seen yet.

    Returns those that differ from their default, with their type. Raises as `read_parameters` does.
    """
    reading, problems, _ = read_each(pipeline, given)
    if problems:
        raise UserError(problems)
    usual = defaults(type(reading.parameters))
    asked = [name for name, value in reading.requested.items() if value != usual[name]]
    return {name: getattr(reading.parameters, name) for name in asked}


def todays_name(model: type[Group], name: str) -> str:
    """Return the current name of a parameter; any other text unchanged."""
    today = name if name in model.model_fields else old_names(model).get(name) or RENAMED.get(name, name)
    return today if today in model.model_fields else name


def read_value(pipeline: str, name: str, value: Any) -> Any:
    """Check the value of one parameter by itself and return it as a run uses it; `name` is the current one.

    Raises as `read_parameters` does.
    """
    reading, problems, _ = read_each(pipeline, {name: value})
    if problems:
        raise UserError(problems)
    return getattr(reading.parameters, name)


def read_each(pipeline: str, given: dict[str, Any]) -> tuple[Reading, list[Problem], list[str]]:
    """Return the parameters, the problems of each by itself, and the names of those that were refused.

    Conflicts between parameters are not looked for. `pipeline` may be the name of a sweep. Raises SecurityRefusal.
    """
    model = model_of(pipeline)
    if model is None:
        raise _unknown_pipeline(pipeline)
    _refuse_secrets(given)
    _refuse_halves(given)
    written, problems = _with_overrides(model, given)
    if len(written) > MOST_NAMES:
        raise UserError(
            Problem("PARAM-E0115", "parameters", f"{len(written):,} names", f"at most {MOST_NAMES:,}",
                    "see `finetune describe` for every parameter; rows belong into files of data")
        )  # fmt: skip
    written, ignored, wrong = set_aside(pipeline.removesuffix(SWEEP), written, model.model_fields)
    problems += wrong
    asked, translations, clashes = under_todays_names(model, written)
    values, other = _translate(model, asked)
    problems += clashes
    for name in [name for name in values if name not in model.model_fields]:
        problems.append(_unknown(model, name, values.pop(name)))
    parameters, refused = _validate(model, values)
    problems += refused
    problems += _too_large(parameters)
    reading = Reading(pipeline, parameters, {**defaults(model), **asked}, (*translations, *other), tuple(ignored))
    return reading, problems, [problem.where for problem in refused]


def _unknown_pipeline(pipeline: str) -> UserError:
    names = ", ".join(PARAMETER_MODELS)
    hint = nearest(pipeline, PARAMETER_MODELS) or "see `finetune list`"
    return UserError(Problem("PARAM-E0100", "pipeline", shown(pipeline), f"one of {names}", hint))


def _too_large(parameters: PipelineParameters) -> Iterator[Problem]:
    """Yield a problem for every count that the training libraries cannot hold; `seed` has a bound of its own."""
    for name in type(parameters).model_fields:
        value = getattr(parameters, name)
        if type(value) is int and value >= LARGEST and name != "seed":
            yield Problem("PARAM-E0129", name, shown(value), f"a number below {LARGEST:,}", "correct it")


def defaults(model: type[PipelineParameters]) -> dict[str, Any]:
    """Every parameter's default by name."""
    return {name: default_of(field) for name, field in model.model_fields.items()}


def default_of(field: FieldInfo) -> Any:
    """A field's default."""
    return field.get_default(call_default_factory=True)


@cache
def choices_of(field: FieldInfo) -> tuple[str, ...]:
    """The allowed values of a closed choice; empty for any other parameter."""
    computed = [rule.names for rule in field.metadata if isinstance(rule, OneOf)]
    if computed:
        return computed[0]
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else ()


def _refuse_secrets(given: dict[str, Any]) -> None:
    """Refuse every value that contains a secret, even if it is overridden, because it is stored anyway."""
    overrides = given.get("overrides")
    layers = [{**given, "overrides": ""}, overrides] if isinstance(overrides, dict) else [given]
    found = {name: kind for layer in layers for name, value in layer.items() if (kind := secret_in(value))}
    if found:
        raise SecurityRefusal(
            Problem("PARAM-E0302", name, kind, "no secret",
                    "put it into a Kubernetes secret or an environment variable",
                    why="parameters are stored and shown")
            for name, kind in found.items()
        )  # fmt: skip


def _refuse_halves(given: dict[str, Any]) -> None:
    """Refuse texts that no file or request can hold: half of a surrogate pair, or bytes that are no UTF-8."""
    names = [name for name, value in given.items() if any(HALF.search(text) for text in _texts([name, value]))]
    if names:
        raise UserError(
            Problem("PARAM-E0121", name, shown(given[name]), "whole characters",
                    "write the character itself, as UTF-8",
                    why="half of a surrogate pair, or a byte that is no UTF-8, is no character")
            for name in names
        )  # fmt: skip


def _texts(value: Any) -> Iterator[str]:
    """Yield every text inside a value, however deep."""
    inside = [value]
    while inside:
        one = inside.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            inside += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            inside += one


def _with_overrides(model: type[PipelineParameters], given: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    values = dict(given)
    overrides = values.pop("overrides", None) or {}
    if isinstance(overrides, dict) and "overrides" not in overrides:
        # KFP passes every number inside a dict as a float.
        whole = {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in overrides.items()}
        return merged(model, values, whole), []
    problem = Problem("PARAM-E0106", "overrides", shown(overrides), "an object of parameters by name",
                      'write it as {"learning_rate": 1e-5}')  # fmt: skip
    return values, [problem]


def under_todays_names(
    model: type[Group], given: dict[str, Any]
) -> tuple[dict[str, Any], list[Translation], list[Problem]]:
    """Return the values under current names, the translated names, and a problem for each name given twice."""
    names = old_names(model)
    values: dict[str, Any] = {}
    written: dict[str, list[str]] = {}
    for name, value in given.items():
        today = names.get(name, name)
        written.setdefault(today, []).append(name)
        values[today] = value
    translations = [
        Translation(name, name, names[name], by_user=name not in model.own_names) for name in given if name in names
    ]
    return values, translations, [given_twice(name, both) for name, both in written.items() if len(both) > 1]


def given_twice(parameter: str, names: list[str]) -> Problem:
    """Return the problem of a parameter given under several of its names."""
    return Problem("PARAM-E0107", " and ".join(names), f"{len(names)} values for {parameter}", "one of them",
                   f"keep one of {' and '.join(names)}", why=f"each of them means {parameter}")  # fmt: skip


def _translate(model: type[PipelineParameters], asked: dict[str, Any]) -> tuple[dict[str, Any], list[Translation]]:
    """Return current values and the translations; those of defaults are not marked `by_user`."""
    values = dict(asked)
    translations = []
    for name, value in {**defaults(model), **asked}.items():
        field = model.model_fields.get(name)
        if field and isinstance(value, bool | int | float) and (choices_of(field) or field.annotation is str):
            value = str(value).lower()  # YAML reads precision: 16 and resume_from_checkpoint: true as other types
            values[name] = value
        if isinstance(value, str) and (effective := todays_value(model, name, value)) != value:
            translations.append(Translation(name, value, effective, by_user=name in asked))
            values[name] = effective
    return values, translations


def todays_value(model: type[Group], name: str, value: str) -> str:
    """Return the current value for an old one; any other value unchanged."""
    return _other_words(model, name).values.get(value, value)


def _other_words(model: type[Group], name: str) -> Renamed:
    return renamed_in(model).get(name, Renamed())


def _unknown(model: type[PipelineParameters], name: str, value: Any) -> Problem:
    hint = nearest(name, model.model_fields) or "see `finetune describe` for every parameter"
    return Problem("PARAM-E0101", name, f"{name}={shown(value)}", f"a parameter of {model.__name__}", hint)


def _validate(model: type[PipelineParameters], values: dict[str, Any]) -> tuple[PipelineParameters, list[Problem]]:
    """Validate every field; refused values become defaults, so that conflicts can be checked as well."""
    try:
        return model(**values), []
    except ValidationError as error:
        details = error.errors()
    problems = [refused(model, detail) for detail in details]
    bad = {str(detail["loc"][0]) for detail in details}
    return model(**{name: value for name, value in values.items() if name not in bad}), problems


def _in_a_sentence(message: str) -> str:
    message = message.removeprefix("Value error, ")  # from our own validators
    return message[0].lower() + message[1:]


def refused(model: type[Group], detail: Any) -> Problem:
    """Turn a pydantic error about a field into a Problem."""
    name = str(detail["loc"][0])
    field = model.model_fields[name]
    if choices := choices_of(field):
        instead = _other_words(model, name).instead.get(str(detail["input"]).lower())
        fix = instead or nearest(str(detail["input"]), choices) or f"set {name} to one of them"
        return Problem("PARAM-E0102", name, shown(detail["input"]), f"one of {', '.join(choices)}", fix)
    expected = {
        "greater_than": "a number above {gt}",
        "greater_than_equal": "a number of at least {ge}",
        "less_than": "a number below {lt}",
        "less_than_equal": "a number of at most {le}",
        "string_too_short": "a text that is not empty",
        "bool_parsing": "true or false",
        "bool_type": "true or false",
        "int_parsing": "a whole number",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_parsing": "a number",
        "float_type": "a number",
        "finite_number": "a number that is not infinite",
        "string_type": "one text",
        "dict_type": 'an object as JSON, {{"name": value}}',
    }.get(detail["type"])
    default = default_of(field)
    return Problem(
        "PARAM-E0103",
        name,
        "no value" if detail["input"] is None else shown(detail["input"]),
        expected.format(**detail.get("ctx", {})) if expected else _in_a_sentence(detail["msg"]),
        f"set {name}, or leave it out for {default!r}",
    )
