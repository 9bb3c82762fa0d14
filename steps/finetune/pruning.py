"""The callback that writes the curve of a training and ends a trial that is worse than the others of its sweep."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from steps.finetune.curves import TrainingCurve


class CurveWatcher(TrainerCallback):
    """Write each log event and evaluation, and raise Pruned after an evaluation if the trial has to end.

    It belongs behind early stopping in the list of callbacks: after its last evaluation, a training has ended and its
    result is as good as any.
    """

    def __init__(self, curve: TrainingCurve):
        self.curve = curve

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.curve.begin(state.max_steps, dict(self._evaluations(state)))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if logs and "loss" in logs:
            self.curve.loss(state.global_step, state.max_steps, logs["loss"])

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        for step, value in self._evaluations(state)[-1:]:
            self.curve.value(step, state.max_steps, value)
            if not control.should_training_stop and state.global_step < state.max_steps:
                self.curve.refuse_worse()

    def _evaluations(self, state: TrainerState) -> list[tuple[int, float]]:
        name = f"eval_{self.curve.metric}"
        return [(int(entry["step"]), float(entry[name])) for entry in state.log_history if name in entry]
