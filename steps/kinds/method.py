"""The record of a training method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Loss:
    """One loss of a method."""

    smooths: bool = False
    """Whether it reads label_smoothing."""
    needs_smoothing: bool = False
    """Whether label_smoothing must be above 0."""
    compares_batch: bool = False
    """Whether it compares the rows of a batch with each other; the batch then needs at least 2 rows."""
    reads: frozenset[str] = field(default_factory=frozenset)
    """Preference parameters that it reads in addition to those of its method."""
    clips: Literal["both", "above", "none"] = "both"
    """With rewards: where it clips the ratio of a probability to that when the token was written."""
    level: str = ""
    """With rewards: the importance_sampling_level that it needs; empty: any."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A training method and its code; an empty name of code means that of the kind of model."""

    name: str
    kinds: tuple[str, ...]
    """Kinds of models that support it."""
    trainer: str
    """`build(run)` for finetune."""
    writer: str
    """Module with `prepare` and `write` for prepare_data."""
    evaluator: str
    """`compare(settings, base, tuned, data)` for evaluate."""
    report: tuple[str, str]
    """Key in metrics.json, and the function in reports that shows it."""

    losses: Mapping[str, Loss]
    """TRL's losses by name, the default first; empty if there is no choice."""
    sums_losses: bool
    """Whether it supports a sum of several losses."""
    reads: frozenset[str]
    """Parameters of some methods only that it uses, besides those that its losses read."""
    asks_reference: bool
    """Whether it needs the log probabilities of a reference model."""
    rated: bool
    """Whether its rows are single rated answers instead of pairs."""
    rewarded: bool
    """Whether the model writes answers during training, which rewards judge."""
    answers_per_row: int
    """Number of answers in a batch for each row."""
    whole_logits: bool
    """Whether its trainer keeps the logits of the whole batch in memory at once."""
    pads_to_max_length: bool
    """Whether its trainer can pad every batch to max_seq_length."""
    best_metrics: bool
    """Whether metrics other than the loss can select the best checkpoint."""
    takes_new_tokens: bool
    """Whether it supports new tokens in the vocabulary."""
    takes_prompts: bool
    """Whether it supports prompt tuning."""
    unfit: Mapping[str, str]
    """Parameter without effect for this method → reason; an error if not at its default."""
