"""What is done when a GPU's memory runs out while answers are written: half as many rows, and one line in the log."""

from __future__ import annotations

import gc
import logging

import torch

from steps.errors import OutOfResources, Problem
from steps.generation.tokens import How

log = logging.getLogger("finetune")


def halved(how: How, rows: int, longest: int) -> None:
    """Halve the number of rows that are computed together; `longest` is the longest prompt among them.

    Raises OutOfResources if it was one row.
    """
    if rows <= 1:
        raise OutOfResources(
            Problem("GEN-E0501", "model", f"no GPU memory left for one row with a prompt of {longest} tokens",
                    "memory for the model and one row",
                    "allow shorter prompts and answers, quantise the weights, or use more GPUs")
        )  # fmt: skip
    how.limits.halve(rows)
    log.warning("WARNING no GPU memory left with %d rows at a time; going on with %d", rows, how.limits.rows)


def freed() -> None:
    """Free memory that nothing uses any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
