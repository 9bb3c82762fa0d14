"""Choose the kind of model and the training method of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steps.kinds.models import MODEL_KINDS
from steps.kinds.recipe import Recipe, recipe
from steps.params.pipeline import SupervisedParameters
from steps.tasks import load_task


def recipe_of_rows(task: str, config: Mapping[str, Any]) -> Recipe:
    """Choose a kind for rows that nothing is learned from: one that fits the model, else the task's default."""
    usual, *others = load_task(task).KINDS
    return recipe(next((name for name in others if MODEL_KINDS[name].made_for(config)), usual), "supervised")


def recipe_for(p: SupervisedParameters, config: Mapping[str, Any]) -> Recipe:
    """Choose the requested kind, else a kind of the task that fits the model, else the task's default."""
    usual, *others = load_task(p.task).KINDS
    made_for = (name for name in others if MODEL_KINDS[name].made_for(config))
    return recipe(p.asked_kind or next(made_for, usual), p.learning_method)
