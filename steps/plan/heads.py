"""What the tuned model will put out: who writes the tokens, trains, measures and serves follows from it."""

from __future__ import annotations

from steps.params.pipelines import SupervisedParameters
from steps.params.settings import Head
from steps.tasks import load_task


def head_of(parameters: SupervisedParameters) -> Head:
    """Give what the task's models usually put out."""
    return load_task(parameters.task).HEAD
