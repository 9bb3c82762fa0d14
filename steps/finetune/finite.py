"""A training ends at the first number that is not finite; the error names the step, and the rows it learned from."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from steps.errors import NumericError, Problem, some_of
from steps.launch.group import current

# Gradients of float16 are multiplied by a scale of 65536 at first. If they overflow, the step is left out and the scale
# halved; after that many halvings in a row they are not too large, but not finite.
HALVINGS = 24
LOWER = "lower learning_rate, or raise warmup_steps"
MOST_PASSES = 1000  # remembered between two log events


class Batches:
    """Which rows each forward pass since the last log event learned from, and its loss, which stays on its device."""

    def __init__(self) -> None:
        self._read: deque[list[int]] = deque()
        self._passes: deque[tuple[int, list[int], Any]] = deque(maxlen=MOST_PASSES)

    @contextmanager
    def watching(self, trainer: Any) -> Iterator[None]:
        """Watch the rows that a trainer reads, and its forward passes, until the block ends."""
        loader_of, learn = trainer.get_train_dataloader, trainer.training_step

        def get_train_dataloader() -> Any:
            loader = loader_of()
            self._read.clear()
            self._watch(loader.dataset)
            return loader

        def training_step(*given: Any, **named: Any) -> Any:
            rows = self._read.popleft() if self._read else []  # it is read one pass ahead
            loss = learn(*given, **named)
            self._passes.append((trainer.state.global_step + 1, rows, loss.detach()))
            return loss

        trainer.get_train_dataloader, trainer.training_step = get_train_dataloader, training_step
        try:
            yield
        finally:  # they refer to the trainer, which would stay in memory with its model
            del trainer.get_train_dataloader, trainer.training_step

    def forget(self) -> None:
        """Forget the passes before the last step: their numbers were finite."""
        while self._passes and self._passes[0][0] < self._passes[-1][0]:
            self._passes.popleft()

    def told(self) -> str:
        """Return the first pass whose loss was not finite, else the last step, in words; empty without any."""
        if not self._passes:
            return ""
        first = next((one for one in self._passes if not math.isfinite(float(one[2]))), None)
        step = first[0] if first else self._passes[-1][0]
        rows = first[1] if first else [row for number, read, _ in self._passes if number == step for row in read]
        beginning = "first in" if first else "after"
        named = f" with the sequences {_numbers(rows)} of tokens/train.parquet" if rows else ""
        return f"; {beginning} step {step}{named}"

    def _watch(self, dataset: Any) -> None:
        if not hasattr(dataset, "__getitems__") or "__getitems__" in vars(dataset):
            return
        rows_at = dataset.__getitems__

        def watched(numbers: Sequence[int]) -> Any:
            self._read.append([int(number) for number in numbers])
            return rows_at(numbers)

        dataset.__getitems__ = watched


def _numbers(rows: list[int]) -> str:
    return some_of(str(row) for row in dict.fromkeys(rows))


class Finite(TrainerCallback):
    """Stop at the first loss, gradient norm or weight that is not finite, because the weights are then useless.

    In float16 the norm may be infinite in some steps: they are left out, and the scale of the loss is halved.
    """

    def __init__(self, batches: Batches | None = None) -> None:
        self._batches = batches or Batches()
        self._halved = 0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        for name in ("loss", "grad_norm", "eval_loss"):
            value = (logs or {}).get(name)
            if name == "grad_norm" and value is not None and args.fp16:
                self._halved = 0 if math.isfinite(value) else self._halved + 1
                if 0 < self._halved <= HALVINGS:
                    continue
            if value is not None and not math.isfinite(value):
                rate = (logs or {}).get("learning_rate", args.learning_rate)
                raise NumericError(
                    Problem("TRAIN-E0601", f"step {state.global_step}",
                            f"{name}={value} at learning rate {rate:.2e}{self._batches.told()}",
                            "finite numbers", LOWER)
                )  # fmt: skip
        self._batches.forget()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Raise NumericError before the checkpoint is sealed: a log event may be many steps away."""
        self._refuse_weights(args, state, given.get("model"))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Do the same before the result is written."""
        self._refuse_weights(args, state, given.get("model"))

    def _refuse_weights(self, args: TrainingArguments, state: TrainerState, model: Any) -> None:
        bad = not_finite(model) if model is not None else []
        if not current().any(bool(bad)):
            return
        rates = (entry["learning_rate"] for entry in reversed(state.log_history) if "learning_rate" in entry)
        found = f"{len(bad)} tensors with NaN or infinity, such as {bad[0]}," if bad else "weights of another process"
        raise NumericError(
            Problem("TRAIN-E0602", f"step {state.global_step}",
                    f"{found} at learning rate {next(rates, args.learning_rate):.2e}{self._batches.told()}",
                    "finite weights", LOWER)
        )  # fmt: skip


def not_finite(model: Any) -> list[str]:
    """Return the names of the trained weights that have a value which is not finite, as far as they are here."""
    import torch

    names, whole = [], []
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            part = getattr(weight, "ds_tensor", weight.detach())  # of ZeRO-3; the next is of fully_shard
            part = part.to_local() if hasattr(part, "to_local") else part
            names.append(name)
            whole.append(torch.isfinite(part).all())
    if not whole:
        return []
    return [name for name, finite in zip(names, torch.stack(whole).tolist(), strict=True) if not finite]
