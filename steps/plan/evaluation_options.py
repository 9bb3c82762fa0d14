"""What the parameters say about how results are told, read before anything runs."""

from __future__ import annotations

from steps.errors import UserError
from steps.params.evaluation_config import EvaluationOptions, read_options
from steps.params.pipelines import SupervisedParameters
from steps.params.reading import choices_of
from steps.params.settings import Head
from steps.sources import storage

COMPARE_TEXTS: tuple[Head, ...] = ("causal_lm", "seq2seq_lm", "question_answering")
COUNTS = ("gen_len", "total", "HasAns_total", "NoAns_total", "best_exact_thresh", "best_f1_thresh")


def evaluation_options(parameters: SupervisedParameters, head: Head) -> EvaluationOptions:
    """Read evaluation_config or evaluation_config_params. Raises UserError, and as `storage.read_bytes`."""
    where, text = "evaluation_config_params", parameters.evaluation_config_params
    if parameters.evaluation_config:
        where = "evaluation_config"
        if problems := storage.check_uri(where, parameters.evaluation_config):
            raise UserError(problems)
        text = storage.read_bytes(where, parameters.evaluation_config).decode("utf-8", "replace")
    if not text:
        return EvaluationOptions()
    known = [*choices_of(type(parameters).model_fields["gate_metric"]), *COUNTS]
    texts = head in COMPARE_TEXTS and parameters.task != "pretraining"
    options = read_options(where, text, known, texts)
    if isinstance(options, list):
        raise UserError(options)
    return options
