"""A kind of model and a training method together, which select the code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from steps.kinds.method import Method
from steps.kinds.methods import METHODS
from steps.kinds.model_kind import ModelKind
from steps.kinds.models import MODEL_KINDS


@dataclass(frozen=True)
class Recipe:
    """A kind of model and a training method."""

    kind: ModelKind
    method: Method

    @property
    def writer(self) -> str:
        """Module that turns rows into tokens."""
        return self.method.writer or self.kind.writer

    @property
    def trainer(self) -> str:
        """Function that creates the trainer."""
        return self.method.trainer or self.kind.trainer

    @property
    def told(self) -> str:
        """Name of the trainer for the plan: the method, or the trainer of the kind."""
        return self.method.name if self.method.trainer else self.kind.trained_as

    @property
    def evaluator(self) -> str:
        """Function that compares base and tuned model."""
        return self.method.evaluator or self.kind.evaluator

    @property
    def takes_new_tokens(self) -> bool:
        """Whether the vocabulary can be extended."""
        return self.kind.takes_new_tokens and self.method.takes_new_tokens

    @property
    def unfit(self) -> Mapping[str, str]:
        """Parameter without effect for this kind or method → why."""
        return {**self.kind.unfit, **self.method.unfit}


def recipe(kind: str, method: str) -> Recipe:
    """Return the recipe of a kind and a method by name. Raises KeyError for unknown names."""
    return Recipe(MODEL_KINDS[kind], METHODS[method])


def reports() -> dict[str, str]:
    """Return key of metrics.json → the function of reports that shows it."""
    pairs = [*(kind.report for kind in MODEL_KINDS.values()), *(method.report for method in METHODS.values())]
    return {key: function for key, function in pairs if key}
