"""Translation of texts."""

from typing import ClassVar

from steps.params.metrics import TranslationMetrics
from steps.params.pipeline import AnswerOnly, SupervisedParameters
from steps.params.task_columns import TranslationColumns


class TranslationParameters(TranslationColumns, AnswerOnly, TranslationMetrics, SupervisedParameters):
    """Tune a language model to translate texts from one language to another."""

    task: ClassVar[str] = "translation"
