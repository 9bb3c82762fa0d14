"""What a person wants to see of an evaluation, as JSON: which metrics, and how texts are compared."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

from pydantic import Field, ValidationError, field_validator

from steps.errors import Problem, nearest, shown
from steps.params.group import Group

# Names that other systems give to our metrics → our names; their own name wins where it was measured.
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
    """The keys that evaluation_config may have."""

    metrics: list[str] = Field(default_factory=list)
    """Metrics that are reported; empty reports all. loss and the gate's metric are always among them."""

    ignore_case: bool = False
    """Compare texts without regard to case."""

    ignore_punctuation: bool = False
    """Compare texts without their punctuation."""

    ignore_numbers: bool = False
    """Compare texts without their digits."""

    regexes_to_ignore: list[str] = Field(default_factory=list)
    """Compare texts without what these regular expressions match."""

    use_stemmer: bool = True
    """Let ROUGE take words with one stem for the same."""

    smoothing: bool = False
    """Smooth bleu_1 to bleu_4, which are 0 otherwise when no n-gram of some length is right."""

    @field_validator("regexes_to_ignore")
    @classmethod
    def _compiles(cls, value: list[str]) -> list[str]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"regular expressions: {pattern!r} is none ({error})") from None
        return value


OF_TEXTS = tuple(name for name in EvaluationOptions.model_fields if name != "metrics")


def read_options(where: str, text: str, metrics: Collection[str], texts: bool) -> EvaluationOptions | list[Problem]:
    """Read the JSON of evaluation_config; give its options, or everything that is wrong with it.

    `where` names the parameter that holds it, `metrics` are those of the task, `texts` says whether it compares texts.
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
    """Give our name for a metric."""
    return name if name in known else OTHER_NAMES.get(name, name)


def _wrong_keys(where: str, given: dict[str, Any], texts: bool) -> Iterator[Problem]:
    for key, value in given.items():
        if key not in OPTIONS:
            fix = nearest(key, OPTIONS) or "leave it out"
            yield Problem("PLAN-E0318", f"{where}: {key}", shown(value), f"one of {', '.join(OPTIONS)}", fix)
        elif key in OF_TEXTS and not texts:
            yield Problem("PLAN-E0314", f"{where}: {key}", shown(value), "an option of this task",
                          "leave it out", why="it compares no texts")  # fmt: skip


def _unknown_metrics(where: str, wanted: list[str], metrics: Collection[str]) -> Iterator[Problem]:
    for name in wanted:
        if our_name(name, metrics) not in metrics:
            fix = nearest(our_name(name, metrics), metrics) or "take a name from that list"
            yield Problem("PLAN-E0319", f"{where}: metrics", shown(name), f"one of {', '.join(metrics)}", fix)
