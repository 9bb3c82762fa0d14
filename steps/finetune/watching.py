"""Callbacks of a training: progress, preemption, checkpoints, early stopping; and its history for the report."""

from __future__ import annotations

import faulthandler
import logging
import math
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from steps.errors import Outage
from steps.finetune import checkpoints
from steps.launch.group import current, patience_seconds
from steps.launch.lease import EVERY, Lease
from steps.stopping import was_asked_to_stop
from steps.tracking import Tracker

log = logging.getLogger("finetune")


# Metrics of preference trainers: the mean reward margin of better over worse answers, and the share above 0.
REWARDS = ("rewards/margins", "rewards/accuracies")


class Interrupted(Exception):
    """Raised during an evaluation if the pod must stop, because there is no time to finish it."""


class Preemption(TrainerCallback):
    """On SIGTERM or Ctrl-C, save and stop after the current step; finetune then exits with code 143.

    So it does when the task that follows the training of several nodes has gone, by its `lease`.
    """

    def __init__(self, lease: Lease | None = None) -> None:
        self._asked = was_asked_to_stop()
        self._lease = lease
        self._looked = time.monotonic()
        self.abandoned = False
        """Whether the task that follows this training has gone."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Preemption:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True

    def is_asked(self) -> bool:
        """Return whether one of the processes was asked to stop; all of them have to ask at the same step."""
        if self._lease and not self.abandoned and time.monotonic() - self._looked > EVERY:
            self._looked = time.monotonic()
            self.abandoned = self._lease.is_stale()
        return current().any(self._asked or self.abandoned)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if self.is_asked():
            control.should_training_stop = True
            # A checkpoint of this step would be resumed after its evaluation, which the choice of the best step needs.
            if not (control.should_evaluate or _evaluation_follows(args, state)):
                control.should_save = True
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        # If stopped within an epoch, the Trainer ends the epoch, and would evaluate and save again.
        if self.is_asked() and not _evaluation_follows(args, state):
            control.should_save = control.should_evaluate = False
        return control

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self.is_asked():
            raise Interrupted


def _evaluation_follows(args: TrainingArguments, state: TrainerState) -> bool:
    """Return whether an evaluation follows this step because it is the last one, or ends an epoch."""
    if args.eval_strategy == IntervalStrategy.NO:
        return False
    ends_epoch = args.eval_strategy == IntervalStrategy.EPOCH and float(state.epoch or 0).is_integer()
    return ends_epoch or state.global_step >= state.max_steps


class Checkpoints(TrainerCallback):
    """Request checkpoints between evaluations, by steps and by time; write their manifests, and delete old ones.

    A checkpoint by time only protects against an interruption: it goes when a newer one is complete, and does not count
    among those that are kept. With several processes, the first one decides by its clock, and writes and deletes.
    """

    def __init__(
        self,
        save_steps: int,
        keep: int,
        save_minutes: float = 0.0,
        tuned: Path | None = None,
        facts: dict[str, Any] | None = None,
    ):
        self.save_steps = save_steps
        self.facts = facts
        self.keep = keep
        self.interval = max(0.0, save_minutes) * 60
        self.tuned = tuned
        self._saved = 0.0
        self._by_time = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._saved = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        # A checkpoint before the evaluation of an epoch would be resumed after it; the Trainer saves after it anyway.
        if self.save_steps > 0 and state.global_step % self.save_steps == 0:
            control.should_save |= not _saves_at_epoch_end(args, state, control)
        due = self.interval > 0 and time.monotonic() - self._saved >= self.interval
        if self.interval > 0:
            due = current().any(due and current().is_first)
        self._by_time = due and not control.should_save and not _saves_at_epoch_end(args, state, control)
        control.should_save |= self._by_time
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        folder = Path(str(args.output_dir))
        current().wait()  # for the files of all processes
        if current().is_first:
            checkpoints.seal(folder / f"checkpoint-{state.global_step}", self.tuned, self._by_time, self.facts)
            checkpoints.drop_passing(folder)
            checkpoints.prune(folder, self.keep, state.best_model_checkpoint)
        self._saved, self._by_time = time.monotonic(), False


def _saves_at_epoch_end(args: TrainingArguments, state: TrainerState, control: TrainerControl) -> bool:
    """Return whether the Trainer saves this step once more, at the end of the epoch, into the same folder."""
    last = control.should_training_stop or float(state.epoch or 0).is_integer()
    return last and args.save_strategy == SaveStrategy.EPOCH


class EarlyStopping(EarlyStoppingCallback):
    """The library's callback, which also counts the evaluations before the training was resumed."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        super().on_train_begin(args, state, control)
        stored: Any = state.stateful_callbacks
        self.early_stopping_patience_counter = _without_improvement(stored)
        stored[type(self).__name__] = self.state()  # checkpoints of 0.1 have the library's name only


class Alive(TrainerCallback):
    """End this process if the training stands still: one of its processes hangs, and the others wait for it.

    Prints where every thread is, because a process that waits for another one cannot tell why.
    """

    def __init__(self, patience: float | None = None):
        self.patience = patience or patience_seconds()
        self._beat = time.monotonic()
        self._over = threading.Event()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._beat = time.monotonic()
        threading.Thread(target=self._watch, name="alive", daemon=True).start()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._over.set()

    def on_event(self, *_: Any, **__: Any) -> None:
        """Note that the training goes on."""
        self._beat = time.monotonic()

    on_step_begin = on_substep_end = on_step_end = on_prediction_step = on_event
    on_evaluate = on_save = on_log = on_epoch_end = on_event

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self.patience)):
            if time.monotonic() - self._beat > self.patience:
                faulthandler.dump_traceback(2, all_threads=True)
                os._exit(Outage.exit_code)


class NothingLeft(TrainerCallback):
    """Ends a training that was resumed from its last checkpoint, without another step or evaluation.

    The Trainer (transformers 5.17) would train at least one step more, if the last one was not at the end of an epoch.
    """

    def attach(self, trainer: Any) -> None:
        """Take the rows away from a trainer."""
        trainer.get_batch_samples = lambda *_: ([], None)
        trainer.add_callback(self)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        control.should_save = control.should_evaluate = control.should_log = False
        control.should_training_stop = True
        return control


def has_ended(checkpoint: Path, patience: int | None) -> bool:
    """Return whether a training had ended with this checkpoint; `patience` is that of early stopping, None without."""
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    stopped = patience is not None and _without_improvement(state.stateful_callbacks) >= patience
    return stopped or state.global_step >= state.max_steps


def _without_improvement(stored: Any) -> int:
    """Return how many evaluations in a row did not improve, as stored with a checkpoint."""
    found = stored.get(EarlyStopping.__name__) or stored.get(EarlyStoppingCallback.__name__) or {}
    return int(found.get("attributes", {}).get("early_stopping_patience_counter", 0))


class Progress(TrainerCallback):
    """Print one line per log event and send the numbers to the tracker."""

    def __init__(self, tracker: Tracker):
        self.tracker = tracker
        self._started = 0.0
        self._first_step = 0
        self.tokens = 0.0
        """Tokens of this process, without padding."""
        self._tokens_before = 0.0  # of the process before, which the Trainer's count includes

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._started, self._first_step = time.monotonic(), state.global_step
        self._tokens_before = state.num_input_tokens_seen
        log.info("training from step %d to %d", state.global_step, state.max_steps)
        for entry in state.log_history:  # of the process before; what the server has already is not sent again
            told = {k: v for k, v in _numbers(entry).items() if k != "step"}
            self.tracker.metrics(told, int(entry["step"]))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        logs = logs or {}
        self.tracker.metrics(_numbers(logs), state.global_step)
        if "loss" in logs:
            self.tokens = logs.get("num_tokens", state.num_input_tokens_seen - self._tokens_before)
            log.info("%s", self._line(state, logs))
        elif "eval_loss" in logs:
            best = args.metric_for_best_model or "loss"
            also = f"  {best} {logs[f'eval_{best}']:.4f}" if best != "loss" and f"eval_{best}" in logs else ""
            log.info("step %d/%d  validation loss %.4f%s", state.global_step, state.max_steps, logs["eval_loss"], also)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # Called after Checkpoints, which has written the manifest.
        checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if current().is_first and not checkpoints.is_by_time(
            checkpoint
        ):  # those by time are for resuming only, and copies are never deleted
            self.tracker.checkpoint(checkpoint)

    def count(self, trainer: Any) -> None:
        """Count the tokens of all steps of this process, also of those since the last log event."""
        # TRL has no public name for it, and logs it only with the loss; our own trainers have tokens_seen.
        counted = sum(current().all_of(getattr(trainer, "tokens_seen", 0)))
        own = getattr(trainer, "_total_train_tokens", 0) or counted
        self.tokens = own or trainer.state.num_input_tokens_seen - self._tokens_before

    def _line(self, state: TrainerState, logs: dict[str, Any]) -> str:
        seconds = time.monotonic() - self._started
        done = state.global_step - self._first_step
        reward = f"reward {logs['reward']:.4f}  " if logs.get("reward") is not None else ""
        left = int(seconds / max(done, 1) * (state.max_steps - state.global_step))
        return (
            f"step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}  {reward}"
            f"lr {logs['learning_rate']:.2e}  "
            f"{self.tokens_per_second(seconds):,.0f} tokens/s  {left // 60}:{left % 60:02} left"
        )

    def tokens_per_second(self, seconds: float | None = None) -> float:
        """Return the tokens of this process per second of training, without padding."""
        return self.tokens / max(seconds if seconds is not None else time.monotonic() - self._started, 1e-9)


def _numbers(logs: dict[str, Any]) -> dict[str, Any]:
    """Return what a tracker can store."""
    return {key: value for key, value in logs.items() if isinstance(value, int | float) and math.isfinite(value)}


def _finite(value: Any) -> Any:
    """Return a number, or None for one that JSON does not have: the norm of a step that float16 left out."""
    return value if value is None or math.isfinite(value) else None


def _figures(entry: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Return the figures of a log entry by TRL's names, without `before`, and without those of speed."""
    found = {key.removeprefix(before): value for key, value in _numbers(entry).items() if key.startswith(before)}
    return {key: value for key, value in found.items() if key != "runtime" and not key.endswith("_per_second")}


def history_of(state: TrainerState, metric: str = "loss", every_figure: bool = False) -> dict[str, Any]:
    """Split the Trainer's log into training points and evaluations; `metric` is the one that selects the best step.

    With `every_figure` they have all that the trainer logged, such as the lengths of completions.
    """
    points = [
        {key: _finite(entry.get(key)) for key in ("step", "epoch", "loss", "learning_rate", "grad_norm")}
        | {key: entry[key] for key in REWARDS if key in entry}
        | (_figures(entry) if every_figure else {})
        for entry in state.log_history
        if "loss" in entry
    ]
    evaluations = [
        {"step": entry["step"], "epoch": entry["epoch"], "loss": entry["eval_loss"]}
        | {key: entry[f"eval_{key}"] for key in (metric, *REWARDS) if key != "loss" and f"eval_{key}" in entry}
        | (_figures(entry, "eval_") if every_figure else {})
        for entry in state.log_history
        if "eval_loss" in entry
    ]
    best = None
    if state.best_metric is not None and state.best_global_step:
        best = {"step": state.best_global_step, "metric": f"validation {metric}", "value": state.best_metric}
    return {"points": points, "evaluations": evaluations, "best": best}
