"""KTO with TRL: raises the probability of good answers and lowers that of bad answers, without pairs."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from trl import KTOConfig, KTOTrainer  # type: ignore[attr-defined]

from steps.finetune.arguments import training_arguments
from steps.finetune.loading import load_model
from steps.finetune.quantising import with_exact_adapter
from steps.finetune.rows import by_row, spread
from steps.finetune.run import Run
from steps.finetune.trainers.prepared_answers import PreparedAnswers
from steps.finetune.trainers.trl_inputs import trl_inputs
from steps.launch.group import current


class PreparedKTOTrainer(PreparedAnswers, KTOTrainer):
    """KTOTrainer for rows that are already tokenised."""


def build(run: Run) -> Any:
    """Build the trainer; its reference is the same as for DPO. Rows are in the order that prepare_data drew."""
    settings, wanted = run.settings, run.settings.preferred
    model = load_model(run.model, settings)
    config = KTOConfig(
        **training_arguments(settings, run.checkpoints),
        max_length=settings.max_length,
        pad_to_multiple_of=settings.max_length if settings.pad_to_max_length else None,
        loss_type=wanted.losses[0],
        beta=wanted.beta,
        desirable_weight=wanted.desirable_weight,
        undesirable_weight=wanted.undesirable_weight,
        precompute_ref_log_probs=wanted.precompute_ref_log_probs,
    )
    rows = partial(_rows, run, loss=config.loss_type)
    made = spread(PreparedKTOTrainer, by_row)(run, args=config, **trl_inputs(run, model, rows))
    return with_exact_adapter(made, settings)


def _rows(run: Run, split: str, loss: str) -> Any:
    """Read a split; for the loss kto each row also gets the answer of its neighbour.

    The neighbour is the previous row in the batch of all processes, for the first row the last one, as in TRL 1.16:
    mismatched prompts and answers give the KL estimate of the loss.
    """
    from datasets import Dataset
    from datasets.table import InMemoryTable

    rows = run.tokens(split)
    if loss != "kto":
        return rows
    size, count = run.settings.training.per_device_train_batch_size * current().count, len(rows)
    places = np.arange(count)
    before = places - 1
    firsts = places[::size]
    before[firsts] = np.minimum(firsts + size, count) - 1
    answers = rows.data.table["completion_ids"].take(pa.array(before))
    return Dataset(InMemoryTable(rows.data.table.append_column("KL_completion_ids", answers)))
