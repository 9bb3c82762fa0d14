"""The plan reads and checks evaluation_config, before anything runs."""

from __future__ import annotations

from steps.errors import UserError
from steps.kinds.recipe import Recipe
from steps.params.evaluation_config import EvaluationOptions, read_options
from steps.params.metrics import NEITHER_IS_BETTER
from steps.params.pipeline import SupervisedParameters
from steps.params.reading import choices_of
from steps.sources import storage


def evaluation_options(parameters: SupervisedParameters, recipe: Recipe) -> EvaluationOptions:
    """Read evaluation_config or evaluation_config_params. Raises UserError, and the errors of `storage.read_bytes`."""
    where, text = "evaluation_config_params", parameters.evaluation_config_params
    if parameters.evaluation_config:
        where = "evaluation_config"
        if problems := storage.check_uri(where, parameters.evaluation_config):
            raise UserError(problems)
        text = storage.read_bytes(where, parameters.evaluation_config).decode("utf-8", "replace")
    if not text:
        return EvaluationOptions()
    known = [*choices_of(type(parameters).model_fields["gate_metric"]), *sorted(NEITHER_IS_BETTER)]
    texts = recipe.kind.compares_texts and parameters.task != "pretraining"
    options = read_options(where, text, known, texts)
    if isinstance(options, list):
        raise UserError(options)
    return options
