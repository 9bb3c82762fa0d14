"""Which kind of model a run trains, and by which method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steps.kinds.models import MODEL_KINDS
from steps.kinds.recipe import Recipe, recipe
from steps.params.pipeline import SupervisedParameters
from steps.tasks import load_task


def recipe_for(p: SupervisedParameters, config: Mapping[str, Any]) -> Recipe:
    """Choose the kind that is asked for, else one of the task's that the model is made for, else the task's usual."""
    usual, *others = load_task(p.task).KINDS
    made_for = (name for name in others if MODEL_KINDS[name].made_for(config))
    return recipe(p.asked_kind or next(made_for, usual), p.learning_method)
