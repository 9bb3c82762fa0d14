"""Documents and their summaries."""

from typing import ClassVar

from steps.params.metrics import SummaryMetrics
from steps.params.pipeline import AnswerOnly, SupervisedParameters
from steps.params.task_columns import SummarizationColumns


class SummarizationParameters(SummarizationColumns, AnswerOnly, SummaryMetrics, SupervisedParameters):
    """Tune a language model to sum up documents."""

    task: ClassVar[str] = "summarization"
