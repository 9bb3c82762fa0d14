"""Words and their tags."""

from typing import ClassVar

from steps.params.metrics import TagMetrics
from steps.params.pipeline import SupervisedParameters
from steps.params.task_columns import TokenColumns


class TokenClassificationParameters(TokenColumns, TagMetrics, SupervisedParameters):
    """Tune a model to give each word of a text its tag: names, places, parts of speech."""

    task: ClassVar[str] = "token_classification"
