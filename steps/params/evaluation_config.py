"""The JSON of evaluation_config: which metrics to report and how to compare texts."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

from pydantic import Field, ValidationError, field_validator

from steps.errors import Problem, nearest, shown
from steps.params.group import Group

# Metric names of other systems → our names; a name that is also one of our metrics is not translated.
OTHER_NAMES = {
    "matthews_correlation": "mcc",
    "exact_match": "exact",
    "f1_score": "f1",
    **{
        f"{measure}_score_{average}": f"{measure}_{average}"
        for measure in ("f1", "precision", "recall", "average_precision")
        for average in ("binary", "macro", "micro", "weighted")
    },
}


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
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"regular expressions; {pattern!r} is not one ({error})") from None
        return value


OF_TEXTS = tuple(name for name in EvaluationOptions.model_fields if name != "metrics")


def read_options(where: str, text: str, metrics: Collection[str], texts: bool) -> EvaluationOptions | list[Problem]:
    """Read the JSON of evaluation_config; return its options, or all problems in it.

    `where` is the parameter with the JSON, `metrics` are those of the task, `texts` is whether the task compares texts.
    """
    try:
        given = json.loads(text)
    except ValueError as error:
        given = str(error)
    if not isinstance(given, dict):
        return [Problem("PLAN-E0318", where, shown(given), "a JSON object", 'write it as {"metrics": ["f1"]}')]
    problems = list(_wrong_keys(where, given, texts))
    try:
        options = EvaluationOptions(**{key: value for key, value in given.items() if key in OPTIONS})
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(map(str, detail["loc"]))
        return [*problems, Problem("PLAN-E0318", f"{where}: {key}", shown(detail["input"]),
                                   detail["msg"].removeprefix("Value error, "), "correct it")]  # fmt: skip
    problems += _unknown_metrics(where, options.metrics, metrics)
    return problems or options


OPTIONS = tuple(EvaluationOptions.model_fields)


def our_name(name: str, known: Collection[str]) -> str:
    """Return our name of a metric."""
    return name if name in known else OTHER_NAMES.get(name, name)


def _wrong_keys(where: str, given: dict[str, Any], texts: bool) -> Iterator[Problem]:
    for key, value in given.items():
        if key not in OPTIONS:
            fix = nearest(key, OPTIONS) or "leave it out"
            yield Problem("PLAN-E0318", f"{where}: {key}", shown(value), f"one of {', '.join(OPTIONS)}", fix)
        elif key in OF_TEXTS and not texts:
            yield Problem("PLAN-E0314", f"{where}: {key}", shown(value), "an option of this task",
                          "leave it out", why="this task compares no texts")  # fmt: skip


def _unknown_metrics(where: str, wanted: list[str], metrics: Collection[str]) -> Iterator[Problem]:
    for name in wanted:
        if our_name(name, metrics) not in metrics:
            fix = nearest(our_name(name, metrics), metrics) or "use a name from that list"
            yield Problem("PLAN-E0319", f"{where}: metrics", shown(name), f"one of {', '.join(metrics)}", fix)
