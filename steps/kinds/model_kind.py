"""The record of a kind of model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ModelKind:
    """A kind of model, defined by its output, and its code."""

    name: str
    auto_class: str
    """Class of transformers that loads it."""
    peft_task: str | None
    """PEFT's name of its task; None if PEFT has none."""
    new_head: bool
    """Whether the base model may lack the head, which is then initialised for the task and fully trained."""
    reads_images: bool
    """Whether prompts may have images, which its processor prepares."""
    made_for: Callable[[Mapping[str, Any]], bool]
    """Whether a configuration (config.json) describes a model of this kind, if a task supports several kinds."""

    writer: str
    """Module with `prepare` and `write` for prepare_data: rows → tokens."""
    trainer: str
    """`build(run)` for finetune, for supervised training."""
    trained_as: str
    """Name of that trainer in the plan."""
    evaluator: str
    """`compare(settings, base, tuned, data)` for evaluate."""
    engine: str
    """`measure(folder, held_out, settings)` for evaluate, if it evaluates generated texts; else empty."""
    served: str
    """File in register_model with the prediction code of a registered model; empty: that of pyfunc_model.py."""
    signature: str
    """Function in register_model that returns the signature (inputs and outputs) of a registered model."""
    report: tuple[str, str]
    """Key in metrics.json, and the function in reports that shows it; empty for the table of generated texts."""

    goes_on: bool
    """Whether it continues its prompt: prompt and answer share the positions, and no token may end the prompt."""
    has_encoder: bool
    """Whether an encoder reads the text and a separate decoder writes the answer."""
    writes_while_training: bool
    """Whether it can generate answers in evaluations during training, to select the best checkpoint by them."""
    compares_texts: bool
    """Whether its answers are compared as texts, which evaluation_config can normalise."""
    takes_new_tokens: bool
    """Whether it supports new tokens in the vocabulary."""
    logits_over_vocabulary: bool
    """Whether training computes a logit for every token of the vocabulary."""
    longest_window: int | None
    """Default length of an input in tokens, if less than the model's own limit."""
    length_parameters: tuple[str, ...]
    """Parameters that must not exceed the model's positions."""
    served_columns: bool
    """Whether a registered model needs the values of the task's own parameters."""
    unfit: Mapping[str, str]
    """Parameter without effect for this kind → reason; an error if not at its default."""
