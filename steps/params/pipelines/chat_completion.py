"""Chat completion."""

from typing import ClassVar

from steps.params.chat_columns import ChatColumns
from steps.params.metrics import TextMetrics
from steps.params.pipeline import SupervisedParameters


class ChatCompletionParameters(ChatColumns, TextMetrics, SupervisedParameters):
    """Tune a chat model on conversations."""

    task: ClassVar[str] = "chat_completion"
