"""What every metric function gives back, and which of its numbers a person asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from steps.errors import Problem, UserError, nearest, shown

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


@dataclass(frozen=True)
class Scored:
    """The numbers of one model; a number that its definition does not give is missing from them, with the reason."""

    values: dict[str, float]
    undefined: dict[str, str] = field(default_factory=dict)
    """Metric that has no value here → why."""
    classes: dict[str, dict[str, float]] = field(default_factory=dict)
    """Class or entity → its own precision, recall, f1 where they are defined, and `rows`: how often it is right."""
    remarks: tuple[str, ...] = ()
    """Sentences about classes that an average leaves out or counts as 0."""


def choose_metrics(available: Mapping[str, float], config: Mapping[str, Any]) -> dict[str, float]:
    """Keep the metrics that config["metrics"] names, in its order; all of them when it names none.

    Other keys of `config` are options of the task and are read by the task. Raises UserError for every name that was
    not measured, with the nearest that was.
    """
    wanted = config.get("metrics")
    if wanted is None or wanted == []:
        return dict(available)
    if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted):
        raise UserError(
            Problem("EVAL-E0204", "evaluation_config: metrics", shown(wanted), "a list of names of metrics",
                    'write it as {"metrics": [' + ", ".join(json.dumps(name) for name in list(available)[:2]) + "]}")
        )  # fmt: skip
    ours = {name: _our_name(name, available) for name in wanted}
    unknown = [name for name in ours if ours[name] not in available]
    if unknown:
        raise UserError([
            Problem("EVAL-E0205", "evaluation_config: metrics", shown(name), f"one of {', '.join(available)}",
                    nearest(ours[name], available) or "take a name from that list, or leave it out")
            for name in unknown
        ])  # fmt: skip
    return {ours[name]: available[ours[name]] for name in ours}


def _our_name(name: str, available: Mapping[str, float]) -> str:
    return name if name in available else OTHER_NAMES.get(name, name)
