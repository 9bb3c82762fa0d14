"""Translation of texts."""

from typing import ClassVar

from steps.params.metrics import TranslationMetrics
from steps.params.pipeline import COMMON_INPUTS, AnswerOnly, SupervisedParameters
from steps.params.task_columns import TranslationColumns


class TranslationParameters(TranslationColumns, AnswerOnly, TranslationMetrics, SupervisedParameters):
    """Tune a language model to translate texts from one language to another."""

    task: ClassVar[str] = "translation"
    short_inputs: ClassVar[tuple[str, ...]] = (
        *COMMON_INPUTS,
        "source_lang",
        "target_lang",
        "translation_key",
        "max_target_length",
    )
