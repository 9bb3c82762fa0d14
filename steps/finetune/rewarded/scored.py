"""What the rewards make of a batch, agreed on by all processes, and what an evaluation is together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from steps.errors import Problem, StepError, UserError
from steps.launch.group import current
from steps.rewards.scoring import Scores


def agreed(score: Callable[[], Scores]) -> Scores:
    """Return this process's scores. Raises the error of the first process whose rewards failed, in all of them.

    Otherwise the others would wait for the one that failed.
    """
    scores: Scores | None = None
    failed: StepError | None = None
    try:
        scores = score()
    except StepError as error:
        failed = error
    for told in current().all_of((type(failed), failed.problems) if failed else None):
        if told is not None:
            kind, problems = told
            raise failed or kind(problems)
    assert scores is not None
    return scores


@dataclass
class Evaluated:
    """The completions of one evaluation, of this process until `together` is called."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def together(self, rewards: Sequence[str], group: int) -> dict[str, float]:
        """Return the metrics of all rows by TRL's names: each row counts the same, whatever the batches were.

        Raises UserError if no reward applies to any row: the best step could not be chosen.
        """
        names = ["place", "reward", "tokens", "finished", *(f"rewards/{name}" for name in rewards)]
        told = current().all_of([{name: row[name] for name in names} for row in self.rows])
        rows = sorted((row for part in told for row in part), key=lambda row: int(row["place"]))
        totals = _known(rows, "reward")
        if not totals:
            raise UserError(
                Problem("TRAIN-E0220", "the evaluation", f"no reward for any of {len(rows)} completions",
                        "a reward that applies to some of the validation rows",
                        "add what the rewards need to the validation rows, or set evaluation_strategy=no")
            )  # fmt: skip
        groups = [_known(rows[start : start + group], "reward") for start in range(0, len(rows), group)]
        made = {
            "reward": _mean(totals),
            "reward_std": _deviation(totals),
            "frac_reward_zero_std": _mean([float(_deviation(one) < 1e-8) for one in groups]),
            "completions/mean_length": _mean([row["tokens"] for row in rows]),
            "completions/clipped_ratio": _mean([not row["finished"] for row in rows]),
        }
        for name in rewards:
            values = _known(rows, f"rewards/{name}")
            made |= {f"rewards/{name}/mean": _mean(values), f"rewards/{name}/std": _deviation(values)}
        return made


def _known(rows: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [row[name] for row in rows if row[name] is not None]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of a sample, as TRL's; 0 of a single value."""
    if len(values) < 2:
        return 0.0
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
