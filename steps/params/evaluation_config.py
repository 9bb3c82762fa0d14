"""The JSON of evaluation_config: which metrics to report and how to compare texts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError, field_validator

from steps.errors import Problem, nearest, shown
from steps.params.group import Group
from steps.params.other_evaluations import IDLE_KEYS, NOT_REPORTED, OTHER_KEYS, idle_key, our_name
from steps.params.patterns import fault_of
from steps.params.text_file import read_json


class EvaluationOptions(Group):
    """The allowed keys of evaluation_config."""

    metrics: list[str] = Field(default_factory=list)
    """Metrics to report; empty reports all. loss and gate_metric are always reported."""

    ignore_case: bool = False
    """Ignore case when comparing texts."""

    ignore_punctuation: bool = False
    """Ignore punctuation when comparing texts."""

    ignore_numbers: bool = False
    """Ignore digits when comparing texts."""

    regexes_to_ignore: list[str] = Field(default_factory=list)
    """Ignore matches of these regular expressions when comparing texts."""

    use_stemmer: bool = True
    """Compare stems of words in ROUGE."""

    smoothing: bool = False
    """Smooth bleu_1 to bleu_4; without it they are 0 if no n-gram of some length matches."""

    @field_validator("regexes_to_ignore")
    @classmethod
    def _compiles(cls, value: list[str]) -> list[str]:
        for pattern in value:
            if fault := fault_of(pattern):
                raise ValueError(f"regular expressions; {shown(pattern)} is not one ({fault})")
        return value


OPTIONS = tuple(EvaluationOptions.model_fields)
OF_TEXTS = tuple(name for name in OPTIONS if name != "metrics")


@dataclass(frozen=True)
class Measurable:
    """What the run's task can be measured by."""

    metrics: Collection[str]
    """Names of its metrics."""
    elsewhere: Mapping[str, str]
    """Metric that the task has, but not with these parameters → the reason."""
    texts: bool
    """Whether it compares texts."""
    multilabel: bool | None = None
    """The parameter multilabel; None if the task has none."""


@dataclass
class OptionsRead:
    """The content of evaluation_config."""

    options: EvaluationOptions
    notes: list[str]
    """A sentence for each key and metric that has no effect."""


def read_options(where: str, content: str | bytes, has: Measurable) -> OptionsRead | list[Problem]:
    """Read the JSON of evaluation_config, in our terms or in those of azureml-metrics; return it, or all its problems.

    `where` is the parameter with the JSON.
    """
    try:
        given = read_json(content)
    except ValueError as error:
        given = str(error)
    if not isinstance(given, dict):
        return [Problem("PLAN-E0318", where, shown(given), "a JSON object", 'write it as {"metrics": ["f1"]}')]
    notes = list(_idle(where, given, has))
    given = {key: value for key, value in given.items() if key not in (*IDLE_KEYS, "multilabel")}
    problems = list(_wrong_keys(where, given, has.texts))
    values = {OTHER_KEYS.get(key, key): value for key, value in given.items()}
    try:
        options = EvaluationOptions(**{key: value for key, value in values.items() if key in OPTIONS})
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(map(str, detail["loc"]))
        return [*problems, Problem("PLAN-E0318", f"{where}: {key}", shown(detail["input"]),
                                   detail["msg"].removeprefix("Value error, "), "correct it")]  # fmt: skip
    problems += _unknown_metrics(where, options.metrics, has)
    reported = [name for name in options.metrics if our_name(name, has.metrics) in has.metrics]
    notes += _unreported(where, options.metrics, has)
    return problems or OptionsRead(options.model_copy(update={"metrics": reported}), notes)


def _idle(where: str, given: dict[str, Any], has: Measurable) -> Iterator[str]:
    for key, value in given.items():
        if reason := idle_key(key, value):
            yield f"{where}: {key} is ignored: {reason}"
        elif key == "multilabel" and value != bool(has.multilabel):
            said = "this task has one label per row" if has.multilabel is None else "the parameter multilabel counts"
            yield f"{where}: multilabel={str(value).lower()} is ignored: {said}"


def _wrong_keys(where: str, given: dict[str, Any], texts: bool) -> Iterator[Problem]:
    for key, value in given.items():
        ours = OTHER_KEYS.get(key, key)
        if ours not in OPTIONS:
            fix = nearest(key, OPTIONS) or "leave it out"
            yield Problem("PLAN-E0318", f"{where}: {key}", shown(value), f"one of {', '.join(OPTIONS)}", fix)
        elif ours in OF_TEXTS and not texts:
            yield Problem("PLAN-E0314", f"{where}: {key}", shown(value), "an option of this task",
                          "leave it out", why="this task compares no texts")  # fmt: skip


def _unknown_metrics(where: str, wanted: list[str], has: Measurable) -> Iterator[Problem]:
    for name in wanted:
        ours = our_name(name, {*has.metrics, *has.elsewhere})
        if ours not in has.metrics and ours not in has.elsewhere and name not in NOT_REPORTED:
            fix = nearest(ours, has.metrics) or "use a name from that list"
            yield Problem("PLAN-E0319", f"{where}: metrics", shown(name), f"one of {', '.join(has.metrics)}", fix)


def _unreported(where: str, wanted: list[str], has: Measurable) -> Iterator[str]:
    for name in wanted:
        if our_name(name, has.metrics) in has.metrics:
            continue
        reason = NOT_REPORTED.get(name) or has.elsewhere.get(our_name(name, has.elsewhere), "")
        yield f"{where}: the metric {name} is ignored: {reason}"
