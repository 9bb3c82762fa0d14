"""Texts of a language or a subject."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from steps.errors import Problem
from steps.params.group import Group
from steps.params.metrics import LossMetrics
from steps.params.pipeline import SupervisedParameters
from steps.params.task_columns import PretrainingColumns


class Objective(Group):
    """What a language model learns from a text, and from where."""

    pretraining_objective: Literal["auto", "causal", "masked"] = "auto"
    """Learn each next token (causal), or to put back hidden ones (masked); auto takes what the model is made for."""

    new_weights: bool = False
    """Take only the model's configuration and tokenizer, and begin with random weights drawn from the seed."""


class PretrainingParameters(PretrainingColumns, Objective, LossMetrics, SupervisedParameters):
    """Let a language model go on learning from plain texts: a language, a subject, a style."""

    task: ClassVar[str] = "pretraining"

    @property
    def asked_kind(self) -> str:
        """The kind of model that the objective needs."""
        return {"auto": "", "causal": "causal_lm", "masked": "masked_lm"}[self.pretraining_objective]

    def conflicts(self) -> Iterator[Problem]:
        """An adapter changes weights that are there."""
        if self.new_weights and self.apply_lora:
            yield Problem("PARAM-E0211", "apply_lora", "true with new_weights=true", "every weight trained",
                          "leave one of the two out",
                          why="an adapter on random weights learns next to nothing")  # fmt: skip
        if self.new_weights and self.bits:
            yield Problem("PARAM-E0278", f"load_in_{self.bits}bit", "true with new_weights=true", "weights that an "
                          "adapter leaves as they are", "leave one of the two out",
                          why="new ones are trained")  # fmt: skip
        if self.new_weights and self.adapter_path:
            yield Problem("PARAM-E0266", "adapter_path", f"{self.adapter_path} with new_weights=true", "a model with "
                          "weights", "leave one of the two out",
                          why="an adapter changes those that it was trained on")  # fmt: skip
