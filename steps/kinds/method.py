"""The record of a method of learning."""

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
    """Whether it compares the rows of a batch, which must then have at least 2."""
    reads: frozenset[str] = field(default_factory=frozenset)
    """Parameters of preferences that it reads beside those of its method."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """How a model learns, and the code that goes with it; an empty name leaves it to the kind of model."""

    name: str
    kinds: tuple[str, ...]
    """Kinds of models that can learn so."""
    trainer: str
    """`build(run)` of finetune."""
    writer: str
    """Module of prepare_data with `prepare` and `write`."""
    evaluator: str
    """`compare(settings, base, tuned, data)` of evaluate."""
    report: tuple[str, str]
    """Key of metrics.json, and the function of reports that shows it."""

    losses: Mapping[str, Loss]
    """TRL's losses by name, the method's own first; empty where there is no choice."""
    sums_losses: bool
    """Whether it takes several losses at once."""
    reads: frozenset[str]
    """Parameters of preferences that change something for it, beside beta and those that its losses read."""
    asks_reference: bool
    """Whether answers are measured against a reference model."""
    rated: bool
    """Whether its rows are rated answers rather than pairs."""
    answers_per_row: int
    """Answers that stand in a batch for each of its rows."""
    whole_logits: bool
    """Whether its trainer holds the logits of a batch all at once."""
    pads_to_max_length: bool
    """Whether its trainer can pad every batch to max_seq_length."""
    best_metrics: bool
    """Whether other metrics than the loss can choose the best checkpoint."""
    takes_new_tokens: bool
    """Whether the vocabulary can be extended."""
    takes_prompts: bool
    """Whether prompt tuning can learn so."""
    unfit: Mapping[str, str]
    """Parameter that means nothing for it → why; refused when set away from its default."""
