"""A loss that stays far above what it was, mostly because the learning rate is too high, is told."""

from __future__ import annotations

import logging
import math
from collections import deque
from statistics import median
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from steps.errors import NumericError, Problem
from steps.finetune.finite import LOWER
from steps.launch.group import current

log = logging.getLogger("finetune")

FACTOR = 5  # times the running median
STEPS = 20  # for so long; a single batch may be odd
NEAR_ZERO = 0.1  # below it, the rows are known by heart, and several times as much is little
WINDOW = 50  # log events of the running median


class LossSpikes(TrainerCallback):
    """Warn when the loss was more than FACTOR times its running median for STEPS steps; stop then if it `stops`.

    The median is that of log events before the loss rose, so a loss that stays high is told once.
    """

    def __init__(self, stops: bool = False):
        self._stops = stops
        self._before: deque[float] = deque(maxlen=WINDOW)
        self._last_low = 0  # the step of the last log event whose loss was not too high
        self._told = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        for entry in state.log_history:  # of the process before, if this one goes on
            if "loss" in entry:
                self._too_high(entry["loss"], int(entry["step"]))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Raise NumericError, or warn."""
        loss = (logs or {}).get("loss")
        if loss is None or not self._too_high(loss, state.global_step) or self._told:
            return
        self._told = True
        found = (
            f"loss {loss:.4g}, more than {FACTOR} times the usual {median(self._before):.4g} "
            f"since step {self._last_low + 1}"
        )
        if self._stops:
            raise NumericError(
                Problem("TRAIN-E0604", f"step {state.global_step}", found, "a loss that falls, or stays where it is",
                        LOWER, why="stop_on_loss_spike is true")
            )  # fmt: skip
        if current().is_first:
            log.warning("WARNING step %d: %s: %s", state.global_step, found, LOWER)

    def _too_high(self, loss: float, step: int) -> bool:
        """Remember the loss of a log event; return whether it and those before were too high for STEPS steps."""
        if self._before and math.isfinite(loss) and loss > max(FACTOR * median(self._before), NEAR_ZERO):
            return step - self._last_low >= STEPS
        if math.isfinite(loss):
            self._before.append(loss)
        self._last_low, self._told = step, False
        return False
