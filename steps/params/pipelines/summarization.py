"""Summarization of documents."""

from typing import ClassVar

from steps.params.metrics import SummaryMetrics
from steps.params.pipeline import AnswerOnly, SupervisedParameters
from steps.params.task_columns import SummarizationColumns


class SummarizationParameters(SummarizationColumns, AnswerOnly, SummaryMetrics, SupervisedParameters):
    """Tune a language model to summarize documents."""

    task: ClassVar[str] = "summarization"
