"""The result of the metric functions, and the selection of metrics."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from steps.errors import Problem, UserError, nearest, shown
from steps.params.metrics import is_known
from steps.params.other_evaluations import our_name

log = logging.getLogger("finetune")


@dataclass(frozen=True)
class Scored:
    """The metrics of one model; undefined metrics are missing from `values` and listed with the reason."""

    values: dict[str, float]
    undefined: dict[str, str] = field(default_factory=dict)
    """Metric without a value → the reason."""
    classes: dict[str, dict[str, float]] = field(default_factory=dict)
    """Class or entity type → precision, recall and f1 if defined, and `rows`: its number of true occurrences."""
    remarks: tuple[str, ...] = ()
    """Sentences about classes that are left out of an average or count as 0."""

    def joined(self, other: Scored) -> Scored:
        """Return both together; a metric or class of `other` replaces one of the same name."""
        return Scored(
            {**self.values, **other.values},
            {**self.undefined, **other.undefined},
            {**self.classes, **other.classes},
            self.remarks + other.remarks,
        )


def choose_metrics(available: Mapping[str, float], wanted: Sequence[str], split: str = "test") -> dict[str, float]:
    """Keep the metrics in `wanted`, in the order of `available`; all of them if `wanted` is empty.

    A metric that has no value for these rows is left out with a warning, which names the `split`. Raises UserError for
    every name that is no metric, with the most similar name.
    """
    if not wanted:
        return dict(available)
    ours = {name: our_name(name, available) for name in wanted}
    unknown = [name for name in ours if ours[name] not in available and not is_known(ours[name])]
    if unknown:
        raise UserError([
            Problem("EVAL-E0205", "evaluation_config: metrics", shown(name), f"one of {', '.join(available)}",
                    nearest(ours[name], available) or "use a name from that list, or leave it out")
            for name in unknown
        ])  # fmt: skip
    if lacking := [name for name in ours if ours[name] not in available]:
        log.warning("WARNING evaluation_config: no value for the %s rows: %s", split, ", ".join(lacking))
    chosen = set(ours.values())
    return {name: value for name, value in available.items() if name in chosen}
