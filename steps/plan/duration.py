"""Estimates of how long a training takes and what it costs, from a throughput and a price that the user states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from steps.params.data import DataSource
from steps.params.pipeline import SupervisedParameters
from steps.params.splits import SPLITS, train_percent
from steps.plan.generations import rewarded
from steps.plan.verl import asked
from steps.sources.data_sources import description

BYTES_PER_TOKEN = 4  # of English text and of most tokenizers; no token is made before prepare_data
HOUR = 3600


@dataclass(frozen=True)
class Duration:
    """Training time and cost, as far as they can be estimated."""

    tokens: int | None
    """Tokens that training reads, about; None if the data is not at hand."""
    seconds: float | None
    price: float
    """Price per hour of all machines; 0 if unknown."""
    nodes: int = 1

    @property
    def cost(self) -> float | None:
        """Price of the training time; None if either is unknown."""
        return self.seconds / HOUR * self.price if self.seconds is not None and self.price else None

    @property
    def told(self) -> list[dict[str, Any]]:
        """Rows of {name, value, how} for the plan's table."""
        return [{"name": "training time", "value": self._time, "how": self._how}, *self._costs]

    @property
    def _time(self) -> str:
        return "unknown" if self.seconds is None else f"about {_in_words(self.seconds)}"

    @property
    def _how(self) -> str:
        if self.tokens is None:
            return "the size of the rows is not known yet"
        tokens = f"about {self.tokens:,} tokens ({BYTES_PER_TOKEN} bytes each)"
        if self.seconds is None:
            return f"{tokens}; set tokens_per_second, which the report of a finished training has"
        return f"an estimate of the training alone: {tokens} at tokens_per_second"

    @property
    def _costs(self) -> list[dict[str, Any]]:
        if not self.price:
            return []
        value = "unknown" if self.cost is None else f"about {self.cost:.3g}"
        count = f" × {self.nodes} nodes" if self.nodes > 1 else ""
        return [{"name": "training cost", "value": value, "how": f"an estimate: time × price_per_hour{count}"}]


def duration(p: SupervisedParameters, table: Sequence[dict[str, Any]], size: int, max_length: int) -> Duration:
    """Estimate time and cost of training on `size` bytes of training rows, given or about to be split.

    `table` has the rows of `arithmetic.table`. A row counts at most max_length tokens.
    """
    known = {line["name"]: line["value"] for line in table}
    rows, steps = known.get("training rows"), known["optimizer steps"]
    source = DataSource.of(p)
    held_out = [split for split in SPLITS[1:] if description(split, source)]
    all_ = size * train_percent(held_out) / 100 / BYTES_PER_TOKEN
    tokens = None
    if (whole := rewarded(p)) is not None:
        # Completions are counted in full, as their length is not known; each is read by every update.
        prompt = min(all_ / rows, whole.max_prompt_length) if size and rows else whole.max_prompt_length
        if isinstance(steps, int):
            tokens = round((prompt + whole.max_completion_length) * p.sequences_per_step * steps)
    elif (of_verl := asked(p)) is not None:
        prompt = min(all_ / rows, of_verl.data_max_prompt_length) if size and rows else of_verl.data_max_prompt_length
        if isinstance(count := known.get("completions in all"), int):
            tokens = round((prompt + of_verl.data_max_response_length) * count)
    elif size and rows and isinstance(steps, int):
        tokens = round(min(all_ / rows, max_length) * p.sequences_per_step * steps)
    elif size and p.max_steps > 0:
        tokens = max_length * p.sequences_per_step * p.max_steps
    elif size:
        tokens = round(all_ * p.num_train_epochs)
    seconds = tokens / p.tokens_per_second if tokens and p.tokens_per_second else None
    return Duration(tokens, seconds, p.price_per_hour * p.num_nodes_finetune, p.num_nodes_finetune)


def _in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / HOUR:.1f} h"
