"""Halve the batch size until the batch fits into memory, with the same number of rows per optimizer step."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

from steps.errors import OutOfResources
from steps.params.settings import FinetuneSettings

OUT_OF_MEMORY = "TRAIN-E0501"  # code of the error of a training whose batch does not fit

log = logging.getLogger("finetune")
T = TypeVar("T")


def smaller(size: int, accumulation: int) -> tuple[int, int]:
    """Return the largest batch size of at most half the size that divides the effective batch, and its accumulation.

    (8, 1) → (4, 2); (6, 1) → (3, 2); (5, 2) → (2, 5); (1, n) raises ValueError.
    """
    if size < 2:
        raise ValueError("a batch of one row cannot be halved")
    whole = size * accumulation
    half = next(number for number in range(size // 2, 0, -1) if whole % number == 0)
    return half, whole // half


def fitted(settings: FinetuneSettings, attempt: Callable[[FinetuneSettings], T]) -> T:
    """Call `attempt`; if memory runs out and auto_find_batch_size is set, call it again with half the batch size.

    Other errors of `attempt`, and those with a batch of one row, are raised.
    """
    while True:
        try:
            return attempt(settings)
        except Exception as error:
            training = settings.training
            if not (training.auto_find_batch_size and training.per_device_train_batch_size > 1 and ran_out(error)):
                raise
        # Outside of `except`, because the traceback keeps references to the model that filled the memory.
        settings = _halved(settings)
        free()


def ran_out(error: BaseException) -> bool:
    """Return whether an error, or its cause, means that memory ran out, in this process or in one that it started."""
    if isinstance(error, OutOfResources):
        return error.problems[0].code == OUT_OF_MEMORY
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, Exception) and (
        should_reduce_batch_size(error) or (error.__cause__ is not None and ran_out(error.__cause__))
    )


def _halved(settings: FinetuneSettings) -> FinetuneSettings:
    training = settings.training
    before = training.per_device_train_batch_size
    size, accumulation = smaller(before, training.gradient_accumulation_steps)
    told = "WARNING out of memory with a batch of %d rows: trying %d rows, accumulated over %d batches"
    log.warning(told, before, size, accumulation)
    update = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
    return settings.model_copy(update={"training": training.model_copy(update=update)})


def free() -> None:
    """Return the memory of models that nothing refers to any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
