"""Classification of the words of a text."""

from typing import ClassVar

from steps.params.metrics import TagMetrics
from steps.params.pipeline import COMMON_INPUTS, SupervisedParameters
from steps.params.task_columns import TokenColumns


class TokenClassificationParameters(TokenColumns, TagMetrics, SupervisedParameters):
    """Tune a model to tag each word of a text: names, places, parts of speech."""

    task: ClassVar[str] = "token_classification"
    short_inputs: ClassVar[tuple[str, ...]] = (*COMMON_INPUTS, "token_key", "tag_key", "precision", "max_steps")
