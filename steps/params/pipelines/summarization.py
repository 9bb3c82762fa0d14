"""Summarization of documents."""

from typing import ClassVar

from steps.params.metrics import SummaryMetrics
from steps.params.pipeline import COMMON_INPUTS, AnswerOnly, SupervisedParameters
from steps.params.task_columns import SummarizationColumns


class SummarizationParameters(SummarizationColumns, AnswerOnly, SummaryMetrics, SupervisedParameters):
    """Tune a language model to summarize documents."""

    task: ClassVar[str] = "summarization"
    short_inputs: ClassVar[tuple[str, ...]] = (
        *COMMON_INPUTS,
        "document_key",
        "summary_key",
        "max_target_length",
        "precision",
    )
