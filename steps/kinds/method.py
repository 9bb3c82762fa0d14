"""The record of a training method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Loss:
    """One loss of a method."""

    smooths: bool = False
    """Whether it reads label_smoothing."""
    needs_smoothing: bool = False
    """Whether label_smoothing must be above 0."""
    compares_batch: bool = False
    """Whether it compares the rows of a batch, which must then have at least 2 rows."""
    reads: frozenset[str] = field(default_factory=frozenset)
    """Preference parameters that it reads in addition to those of its method."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A training method and its code; where a code name is empty, that of the kind of model is used."""

    name: str
    kinds: tuple[str, ...]
    """Kinds of models it can be used with."""
    trainer: str
    """Function `build(run)` of finetune."""
    writer: str
    """Module of prepare_data with the functions `prepare` and `write`."""
    evaluator: str
    """Function `compare(settings, base, tuned, data)` of evaluate."""
    report: tuple[str, str]
    """Key of metrics.json, and the function of reports that shows it."""

    losses: Mapping[str, Loss]
    """TRL's losses by name, the default first; empty if there is no choice."""
    sums_losses: bool
    """Whether several losses can be added."""
    reads: frozenset[str]
    """Preference parameters that have an effect for it, in addition to beta and those that its losses read."""
    asks_reference: bool
    """Whether it compares with a reference model."""
    rated: bool
    """Whether its rows are rated answers instead of pairs."""
    answers_per_row: int
    """Number of answers in a batch for each row."""
    whole_logits: bool
    """Whether its trainer holds all logits of a batch in memory at once."""
    pads_to_max_length: bool
    """Whether its trainer can pad every batch to max_seq_length."""
    best_metrics: bool
    """Whether metrics other than the loss can select the best checkpoint."""
    takes_new_tokens: bool
    """Whether the vocabulary can be extended."""
    takes_prompts: bool
    """Whether it can be used with prompt tuning."""
    unfit: Mapping[str, str]
    """Parameter without effect for it → why; refused unless it has its default value."""
