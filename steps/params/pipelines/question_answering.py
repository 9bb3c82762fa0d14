"""Extractive question answering."""

from typing import ClassVar

from steps.params.metrics import AnswerMetrics
from steps.params.pipeline import COMMON_INPUTS, SupervisedParameters
from steps.params.task_columns import AnswerColumns


class QuestionAnsweringParameters(AnswerColumns, AnswerMetrics, SupervisedParameters):
    """Tune a model to find the answer to a question in a text, or to say that there is none."""

    task: ClassVar[str] = "question_answering"
    short_inputs: ClassVar[tuple[str, ...]] = (
        *COMMON_INPUTS,
        "question_key",
        "context_key",
        "answers_key",
        "allow_no_answer",
    )
