"""The record of a kind of model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ModelKind:
    """A kind of model, defined by its output, and its code."""

    name: str
    puts_out: str
    """Short description of its output."""
    auto_class: str
    """Class of transformers that loads it."""
    peft_task: str | None
    """PEFT's name of its task; None if PEFT has none."""
    new_head: bool
    """Whether a base model may lack the last layer, which is then created for the task and fully trained."""
    made_for: Callable[[Mapping[str, Any]], bool]
    """Whether a configuration (config.json) belongs to this kind and not to another."""

    writer: str
    """Module of prepare_data with the functions `prepare` and `write`: rows → tokens."""
    trainer: str
    """Function `build(run)` of finetune, for supervised training."""
    trained_as: str
    """Name of that trainer."""
    evaluator: str
    """Function `compare(settings, base, tuned, data)` of evaluate."""
    engine: str
    """Function `measure(folder, held_out, settings)` of evaluate, for kinds that generate text; empty for others."""
    served: str
    """File of register_model with which a registered model answers; empty for the default in pyfunc_model.py."""
    signature: str
    """Function of register_model that describes the inputs and outputs of a registered model."""
    report: tuple[str, str]
    """Key of metrics.json, and the function of reports that shows it; empty for the table of generated texts."""

    goes_on: bool
    """Whether it continues the prompt: prompt and answer share its positions, and no token may end the prompt."""
    has_encoder: bool
    """Whether an encoder reads the text and a separate decoder writes the answer."""
    writes_while_training: bool
    """Whether it can generate answers at the evaluations during training, whose metrics can select the checkpoint."""
    compares_texts: bool
    """Whether its answers are compared as texts, which evaluation_config can normalise."""
    takes_new_tokens: bool
    """Whether its vocabulary can be extended."""
    logits_over_vocabulary: bool
    """Whether training holds a logit for each token of the vocabulary."""
    longest_window: int | None
    """Default input length in tokens, if less than the model's own limit."""
    length_parameters: tuple[str, ...]
    """Parameters that must not exceed the model's positions."""
    served_columns: bool
    """Whether a registered model needs the values of the task's own parameters."""
    unfit: Mapping[str, str]
    """Parameter without effect for it → why; refused unless it has its default value."""
