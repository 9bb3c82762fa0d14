"""Continued pretraining on plain texts."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from steps.errors import Problem
from steps.params.group import Group
from steps.params.metrics import LossMetrics
from steps.params.pipeline import COMMON_INPUTS, SupervisedParameters
from steps.params.task_columns import PretrainingColumns


class Objective(Group):
    """Training objective, and initial weights."""

    pretraining_objective: Literal["auto", "causal", "masked"] = "auto"
    """Predict the next token (causal) or masked tokens (masked); auto follows the model's architecture."""

    new_weights: bool = False
    """Use only the model's configuration and tokenizer, with random initial weights drawn from the seed."""


class PretrainingParameters(PretrainingColumns, Objective, LossMetrics, SupervisedParameters):
    """Continue the pretraining of a language model on plain texts: a language, a subject, a style."""

    task: ClassVar[str] = "pretraining"
    short_inputs: ClassVar[tuple[str, ...]] = (
        *COMMON_INPUTS,
        "text_key",
        "pretraining_objective",
        "packing",
        "precision",
    )

    @property
    def asked_kind(self) -> str:
        """The kind of model that the objective needs."""
        return {"auto": "", "causal": "causal_lm", "masked": "masked_lm"}[self.pretraining_objective]

    def conflicts(self) -> Iterator[Problem]:
        """Refuse an adapter or a quantised base with new weights."""
        if self.new_weights and self.apply_lora:
            yield Problem("PARAM-E0211", "apply_lora", "true with new_weights=true", "false",
                          "leave one of the two out",
                          why="an adapter on random weights learns almost nothing")  # fmt: skip
        if self.new_weights and self.bits:
            yield Problem("PARAM-E0278", f"load_in_{self.bits}bit", "true with new_weights=true", "false",
                          "leave one of the two out", why="new weights are trained themselves")  # fmt: skip
        if self.new_weights and self.adapter_path:
            yield Problem("PARAM-E0266", "adapter_path", f"{self.adapter_path} with new_weights=true", "the model's "
                          "own weights", "leave one of the two out",
                          why="an adapter fits only the weights that it was trained on")  # fmt: skip
