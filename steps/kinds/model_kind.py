"""The record of a kind of model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ModelKind:
    """What a model puts out, and the code that goes with it."""

    name: str
    puts_out: str
    """What it puts out, in a few words."""
    auto_class: str
    """Class of transformers that loads it."""
    peft_task: str | None
    """PEFT's name of its task; None where PEFT has none."""
    new_head: bool
    """Whether a base may lack the last layer, which is then made for the task and trained whole."""
    made_for: Callable[[Mapping[str, Any]], bool]
    """Whether a configuration (config.json) is of a model that is made for this, rather than for another kind."""

    writer: str
    """Module of prepare_data with `prepare` and `write`: rows → tokens."""
    trainer: str
    """`build(run)` of finetune, for learning from right answers."""
    trained_as: str
    """What that is called."""
    evaluator: str
    """`compare(settings, base, tuned, data)` of evaluate."""
    engine: str
    """`measure(folder, held_out, settings)` of evaluate, for the evaluator of written texts; empty for others."""
    served: str
    """File of register_model that answers in a registered model; empty for pyfunc_model.py's own."""
    signature: str
    """Function of register_model that describes what goes into a registered model and comes out."""
    report: tuple[str, str]
    """Key of metrics.json, and the function of reports that shows it; empty for the table of written texts."""

    goes_on: bool
    """Whether its answer stands behind its prompt: both share its positions, and no token may end the prompt."""
    has_encoder: bool
    """Whether an encoder reads the text, and a decoder writes the answer apart from it."""
    writes_while_training: bool
    """Whether it can write answers at the evaluations of a training, so that these steer it."""
    compares_texts: bool
    """Whether its answers are compared as texts, which evaluation_config may normalise."""
    takes_new_tokens: bool
    """Whether its vocabulary can be extended."""
    logits_over_vocabulary: bool
    """Whether training holds a logit for each word of the vocabulary."""
    longest_window: int | None
    """Tokens of an input where none is asked for, if less than the model's own limit."""
    length_parameters: tuple[str, ...]
    """Parameters that may not exceed the model's positions."""
    served_columns: bool
    """Whether a registered model needs the values of the task's own parameters."""
    unfit: Mapping[str, str]
    """Parameter that means nothing for it → why; refused when set away from its default."""
