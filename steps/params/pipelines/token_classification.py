"""Classification of the words of a text."""

from typing import ClassVar

from steps.params.metrics import TagMetrics
from steps.params.pipeline import SupervisedParameters
from steps.params.task_columns import TokenColumns


class TokenClassificationParameters(TokenColumns, TagMetrics, SupervisedParameters):
    """Tune a model to tag each word of a text: names, places, parts of speech."""

    task: ClassVar[str] = "token_classification"
