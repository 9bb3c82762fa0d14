"""A batch that fits into memory: halved until it does, with as many rows behind each optimizer step as before."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

from steps.params.settings import FinetuneSettings

log = logging.getLogger("finetune")
T = TypeVar("T")


def smaller(size: int, accumulation: int) -> tuple[int, int]:
    """Give the largest batch of at most half the size whose multiple is the same effective batch.

    (8, 1) → (4, 2); (6, 1) → (3, 2); (5, 2) → (2, 5); (1, n) has none and raises ValueError.
    """
    if size < 2:
        raise ValueError("a batch of one row cannot be halved")
    whole = size * accumulation
    half = next(number for number in range(size // 2, 0, -1) if whole % number == 0)
    return half, whole // half


def fitted(settings: FinetuneSettings, attempt: Callable[[FinetuneSettings], T]) -> T:
    """Call `attempt`, again with half the batch whenever memory runs out and auto_find_batch_size is set.

    What `attempt` raises for another reason, or for a batch of one row, is passed on.
    """
    while True:
        try:
            return attempt(settings)
        except Exception as error:
            training = settings.training
            if not (training.auto_find_batch_size and training.per_device_train_batch_size > 1 and ran_out(error)):
                raise
        # Outside of `except`: the traceback holds on to the model that filled the memory.
        settings = _halved(settings)
        _free()


def ran_out(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, says that memory is too small."""
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, Exception) and (
        should_reduce_batch_size(error) or (error.__cause__ is not None and ran_out(error.__cause__))
    )


def _halved(settings: FinetuneSettings) -> FinetuneSettings:
    training = settings.training
    before = training.per_device_train_batch_size
    size, accumulation = smaller(before, training.gradient_accumulation_steps)
    told = "WARNING no memory for %d rows at a time: trying %d, %d times for each optimizer step"
    log.warning(told, before, size, accumulation)
    update = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
    return settings.model_copy(update={"training": training.model_copy(update=update)})


def _free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
