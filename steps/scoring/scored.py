"""What every metric function gives back, and which of its numbers a person asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from steps.errors import Problem, UserError, nearest, shown
from steps.params.evaluation_config import our_name


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


def choose_metrics(available: Mapping[str, float], wanted: Sequence[str]) -> dict[str, float]:
    """Keep the metrics that are wanted, in the order in which they were measured; all of them when none is named.

    Raises UserError for every name that was not measured, with the nearest that was.
    """
    if not wanted:
        return dict(available)
    ours = {name: our_name(name, available) for name in wanted}
    unknown = [name for name in ours if ours[name] not in available]
    if unknown:
        raise UserError([
            Problem("EVAL-E0205", "evaluation_config: metrics", shown(name), f"one of {', '.join(available)}",
                    nearest(ours[name], available) or "take a name from that list, or leave it out")
            for name in unknown
        ])  # fmt: skip
    chosen = set(ours.values())
    return {name: value for name, value in available.items() if name in chosen}
