"""Chat completion."""

from typing import ClassVar

from steps.params.chat_columns import ChatColumns
from steps.params.metrics import TextMetrics
from steps.params.pipeline import COMMON_INPUTS, SupervisedParameters


class ChatCompletionParameters(ChatColumns, TextMetrics, SupervisedParameters):
    """Tune a chat model on conversations."""

    task: ClassVar[str] = "chat_completion"
    short_inputs: ClassVar[tuple[str, ...]] = (*COMMON_INPUTS, "precision", "lora_r", "max_steps", "gate_min_value")
