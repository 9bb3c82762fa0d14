"""Preference training on pairs of a better and a worse answer, or on rated answers."""

from collections.abc import Iterator
from typing import ClassVar

from steps.errors import Problem
from steps.params.chat_columns import KtoColumns, PreferenceColumns
from steps.params.metrics import OF_PAIRS, OF_RATED, PreferenceMetrics
from steps.params.pipeline import COMMON_INPUTS, SupervisedParameters
from steps.params.preference import PreferenceMethod


class PreferenceParameters(PreferenceColumns, KtoColumns, PreferenceMethod, PreferenceMetrics, SupervisedParameters):
    """Tune a chat model on preferences: pairs of a better and a worse answer, or rated answers."""

    task: ClassVar[str] = "preference"
    short_inputs: ClassVar[tuple[str, ...]] = (*COMMON_INPUTS, "method", "beta", "precision", "lora_r")

    @property
    def rows_task(self) -> str:
        """The task of the rows: kto for rated answers, preference for pairs."""
        return "kto" if self.rated else "preference"

    @property
    def learning_method(self) -> str:
        """The training method."""
        return self.method

    def conflicts(self) -> Iterator[Problem]:
        """Refuse batch sizes, metrics, dropout and columns that the method or the rows do not support."""
        alone = self.per_device_train_batch_size < 2 and not self.total_train_batch_size
        for loss in (name for name, record in self.chosen_losses.items() if record.compares_batch):
            if alone:
                yield Problem("PARAM-E0256", "per_device_train_batch_size", f"1 with the loss {loss}",
                              "at least 2", "raise it",
                              why="this loss compares the rows of a batch")  # fmt: skip
            if self.auto_find_batch_size:
                yield Problem("PARAM-E0256", "auto_find_batch_size", f"true with the loss {loss}", "false",
                              "leave it out", why="this loss compares the rows of a batch")  # fmt: skip
        for name in ("rank_dropout", "module_dropout"):
            if self.peft_kwargs.get(name):
                yield Problem("PARAM-E0259", f"peft_kwargs.{name}", str(self.peft_kwargs[name]), "nothing",
                              "leave it out", why="dropout is switched off, as rewards are small differences of "
                              "probabilities")  # fmt: skip
        if not self.learning.best_metrics and self.metric_for_best_model != "loss":
            yield Problem("PARAM-E0257", "metric_for_best_model",
                          f"{self.metric_for_best_model} with method={self.method}",
                          "loss", "leave it out",
                          why="a batch may contain good answers only")  # fmt: skip
        missing = OF_PAIRS if self.rated else OF_RATED
        if self.gate_metric in missing:
            other = "preference_auc" if self.rated else "preference_accuracy"
            yield Problem("PARAM-E0257", "gate_metric", f"{self.gate_metric} for "
                          f"{'rated answers' if self.rated else 'pairs'}",
                          "a metric for these rows", f"set gate_metric to {other}, or to reward_accuracy")  # fmt: skip
        if self.pad_to_max_length and not self.learning.pads_to_max_length:
            yield Problem("PARAM-E0255", "pad_to_max_length", f"true with method={self.method}",
                          "false", "leave it out",
                          why="TRL pads these batches to their longest row only")  # fmt: skip
        yield from self._other_columns()

    def _other_columns(self) -> Iterator[Problem]:
        fields = type(self).model_fields
        for name in ("chosen_key", "rejected_key") if self.rated else ("completion_key", "label_key"):
            if (value := getattr(self, name)) != fields[name].default:
                rows = "rated answers" if self.rated else "pairs"
                fix = "set kto_rows=pairs" if self.rated else "set method=kto with kto_rows=rated"
                yield Problem("PARAM-E0258", name, f"{value}, although the rows are {rows}", "a column of these rows",
                              f"leave it out, or {fix}")  # fmt: skip
