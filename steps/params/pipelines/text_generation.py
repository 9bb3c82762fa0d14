"""Generation of texts, or of the continuation of prompts."""

from collections.abc import Iterator
from typing import ClassVar

from steps.errors import Problem
from steps.params.data import TextColumns
from steps.params.metrics import TextMetrics
from steps.params.pipeline import COMMON_INPUTS, SupervisedParameters


class TextGenerationParameters(TextColumns, TextMetrics, SupervisedParameters):
    """Tune a language model on texts, or on prompts with the text that should follow."""

    task: ClassVar[str] = "text_generation"
    short_inputs: ClassVar[tuple[str, ...]] = (*COMMON_INPUTS, "text_key", "ground_truth_key", "precision", "max_steps")

    def conflicts(self) -> Iterator[Problem]:
        """Refuse settings that need answers without ground_truth_key."""
        if self.ground_truth_key:
            return
        if self.train_on_completions_only:
            yield Problem("PARAM-E0206", "train_on_completions_only", "true without ground_truth_key",
                          "a column with the text to learn", "set ground_truth_key")  # fmt: skip
        if self.gate_metric not in ("loss", "perplexity"):
            yield Problem("PARAM-E0207", "gate_metric", f"{self.gate_metric} without ground_truth_key",
                          "loss or perplexity", "set ground_truth_key, or gate_metric=loss",
                          why="there is no correct answer to compare with")  # fmt: skip
