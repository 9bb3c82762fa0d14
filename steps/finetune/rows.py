"""Which rows each process of a training gets, and how much its loss counts, so that together they are as one process.

With several processes, the batch of one forward pass is what one process would take as one batch of
per_device_train_batch_size × processes rows. The last batch of an epoch is shared as evenly as possible. accelerate
would fill it with rows from the start of the epoch, which were then trained twice (accelerate 1.15).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import accelerate.data_loader
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.nn.functional import binary_cross_entropy_with_logits

from steps.launch.group import current
from steps.launch.sharding import sharing_kept

NO_LOSS = -100
REAL = "real_rows"  # in a batch for training: how many of its rows count
FAR = 1_000_000  # a position behind every text, which models for questions leave out of their loss
Counter = Callable[[Any, dict[str, Any]], Any]


def by_row(trainer: Any, _inputs: dict[str, Any]) -> Any:
    """Count the rows of a batch, for a loss that is a mean over rows."""
    return trainer.real_rows


def by_label(trainer: Any, inputs: dict[str, Any]) -> Any:
    """Count the labels of a batch, for a loss that is a mean over labels."""
    return (inputs["labels"] != NO_LOSS).sum() if trainer.real_rows else 0


def spread(trainer: type, counter: Counter | None = None) -> Any:
    """Return a trainer class for the processes of a training; a process alone gets `trainer` itself.

    `counter` counts what the trainer's loss is a mean over; None for one that divides the sum over the labels by their
    number in all processes, as transformers does for causal models.
    """
    if current().count == 1:
        return trainer

    class Spread(_Spread, trainer):
        pass

    Spread.counter = staticmethod(counter) if counter else None
    Spread.__name__ = Spread.__qualname__ = trainer.__name__  # libraries decide by the name
    return Spread


class Together:
    """Mixin that precedes a trainer of several processes among the base classes, whatever their rows."""

    def _prepare_for_training(self, *given: Any) -> Any:
        with sharing_kept(self.model) if self.is_fsdp_enabled else nullcontext():  # type: ignore[attr-defined]
            return super()._prepare_for_training(*given)  # type: ignore[misc]

    def _save_checkpoint(self, *given: Any) -> None:
        # The Trainer takes a checkpoint as the best one only if its folder is there before fully_shard writes into it.
        step = self.state.global_step  # type: ignore[attr-defined]
        Path(self.args.output_dir, f"checkpoint-{step}").mkdir(parents=True, exist_ok=True)  # type: ignore[attr-defined]
        super()._save_checkpoint(*given)  # type: ignore[misc]


class _Spread(Together):
    """Mixin that precedes a trainer among the base classes."""

    counter: Any = None
    real_rows: int | None = None

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()  # type: ignore[misc]
        accelerator = self.accelerator  # type: ignore[attr-defined]
        accelerator.gather = _of_any_size(accelerator.gather)

    def get_train_dataloader(self) -> Any:
        with _sharding(TrainingRows):
            loader = super().get_train_dataloader()  # type: ignore[misc]
        rows, collate = loader.batch_sampler, loader.collate_fn

        def collated(found: list[Any]) -> Any:
            batch = collate(found)
            if not rows.real and self.counter is None and "labels" in batch:
                batch["labels"] = batch["labels"].new_full(batch["labels"].shape, NO_LOSS)
            batch[REAL] = rows.real
            return batch

        _collate(loader, collated)
        return loader

    def get_eval_dataloader(self, *given: Any) -> Any:
        with _sharding(EvaluationRows):
            loader = super().get_eval_dataloader(*given)  # type: ignore[misc]
        rows, collate = loader.batch_sampler, loader.collate_fn
        if not isinstance(rows, EvaluationRows):
            return loader  # the loader of an earlier evaluation
        predicts = self.compute_metrics is not None  # type: ignore[attr-defined]

        def collated(found: list[Any]) -> Any:
            # Predictions of all processes are gathered, which needs batches of one size; a loss is not.
            return _without_copies(collate(found), rows.real) if predicts else collate(found[: max(1, rows.real)])

        _collate(loader, collated)
        return loader

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        self.real_rows = int(inputs.pop(REAL))
        try:
            return super().training_step(model, inputs, *rest, **more)  # type: ignore[misc]
        finally:
            self.real_rows = None

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **more: Any) -> Any:
        if self.counter is None or self.real_rows is None:
            return super().compute_loss(model, inputs, return_outputs, **more)  # type: ignore[misc]
        share = self._share(inputs)
        found = super().compute_loss(model, inputs, return_outputs, **more)  # type: ignore[misc]
        loss, *outputs = found if return_outputs else (found,)
        # A batch without labels has a loss of NaN.
        weighted = loss.nan_to_num() * 0 if share == 0 else loss * share
        return (weighted, *outputs) if return_outputs else weighted

    def evaluation_loop(self, *given: Any, **named: Any) -> Any:
        # Seq2SeqTrainer would keep the copies among the answers that it scores.
        self.gather_function = self.accelerator.gather_for_metrics  # type: ignore[attr-defined]
        return super().evaluation_loop(*given, **named)  # type: ignore[misc]

    def prediction_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        loss, logits, labels = super().prediction_step(model, inputs, *rest, **more)  # type: ignore[misc]
        # The loss over several labels per row knows no label that is left out.
        if labels is not None and not isinstance(labels, tuple) and labels.is_floating_point():
            real = labels[:, 0] != NO_LOSS
            if logits is not None and not real.all():
                loss = binary_cross_entropy_with_logits(logits[real], labels[real])
        return loss, logits, labels

    def _share(self, inputs: dict[str, Any]) -> float:
        """Return the factor of this process's loss: the mean over all processes is then that over their batches."""
        own = int(self.counter(self, inputs))
        together = sum(current().all_of(own))
        return own * current().count / together if together else 0.0


def _of_any_size(gather: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a `gather` for tensors with another number of rows in each process, as trainers have of the last batch."""

    def gathered(tensor: Any) -> Any:
        if not torch.is_tensor(tensor) or tensor.ndim == 0:
            return gather(tensor)
        sizes = current().all_of(tensor.shape[0])
        if len(set(sizes)) == 1:
            return gather(tensor)
        filled = tensor.new_zeros((max(sizes), *tensor.shape[1:]))
        filled[: tensor.shape[0]] = tensor
        parts = gather(filled).split(max(sizes))
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    return gathered


def _collate(loader: Any, collate: Callable[[list[Any]], Any]) -> None:
    """Set the collator of a loader; accelerate's is a shell around another one, and it makes a third to skip rows."""
    loader.collate_fn = collate
    if (inner := getattr(loader, "base_dataloader", None)) is not None:
        inner.collate_fn = collate


def _without_copies(batch: Any, real: int) -> Any:
    """Leave the rows behind the first `real` ones out of the loss."""
    if "labels" in batch:
        batch["labels"][real:] = NO_LOSS
    for name in ("start_positions", "end_positions"):
        if name in batch:
            batch[name][real:] = FAR
    return batch


class TrainingRows(BatchSamplerShard):
    """The rows of one process for each batch; `real` is how many of the batch that was given last count."""

    real = 0

    def __iter__(self) -> Iterator[list[int]]:
        size, whole = self.batch_size, self.batch_size * self.num_processes
        together: list[int] = []
        for batch in self.batch_sampler:
            together += batch
            if len(together) == whole:
                self.real = size
                yield together[self.process_index * size : (self.process_index + 1) * size]
                together = []
        if together:
            yield self._last(together)

    def _last(self, rows: list[int]) -> list[int]:
        """Return this process's part of the last batch; a process without a part gets a row that does not count."""
        few, more = divmod(len(rows), self.num_processes)
        start = self.process_index * few + min(self.process_index, more)
        own = rows[start : start + few + (self.process_index < more)]
        self.real = len(own)
        return own or rows[:1]


class EvaluationRows(BatchSamplerShard):
    """The rows of one process; the last batches are filled with copies, `real` is how many rows are none."""

    real = 0

    def __iter__(self) -> Iterator[list[int]]:
        count = len(self.batch_sampler.sampler)
        for number, batch in enumerate(super().__iter__()):
            before = (number * self.num_processes + self.process_index) * self.batch_size
            self.real = min(max(count - before, 0), len(batch))
            yield batch


@contextmanager
def _sharding(kind: type[BatchSamplerShard]) -> Iterator[None]:
    """Make accelerate divide batches with `kind`; it has no argument for that."""
    before = accelerate.data_loader.BatchSamplerShard
    accelerate.data_loader.BatchSamplerShard = kind
    try:
        yield
    finally:
        accelerate.data_loader.BatchSamplerShard = before
