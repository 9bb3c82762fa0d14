"""Extractive question answering: start and end of the answer in a context, trained with transformers' Trainer."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq
from torch.nn.functional import pad
from transformers import Trainer

from steps.artifacts import read_manifest
from steps.finetune.arguments import training_arguments
from steps.finetune.heads import load_with_head
from steps.finetune.loading import load_tokenizer
from steps.finetune.rows import by_row, spread
from steps.finetune.run import Run
from steps.launch.group import current
from steps.scoring.answer_metrics import score_answers
from steps.scoring.answer_windows import answers_of, references_of

LEARNED = ("input_ids", "token_type_ids", "start_positions", "end_positions")


class EquallyWideTrainer(Trainer):
    """Pads the batches of all processes to one width, as one process would: padding takes part in the loss.

    These models choose a position among all of a batch's width.
    """

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        tokenizer: Any = self.processing_class
        padding = {"input_ids": tokenizer.pad_token_id}
        width = max(current().all_of(inputs["input_ids"].shape[1]))
        wide = {
            name: pad(values, (0, width - values.shape[1]), value=padding.get(name, 0)) if values.ndim == 2 else values
            for name, values in inputs.items()
        }
        return super().training_step(model, wide, *rest, **more)


def build(run: Run) -> Any:
    """Build the trainer; the rows are windows with the start and end positions of their answer."""
    from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding, TrainingArguments

    settings = run.settings
    tokenizer = load_tokenizer(run.model, run.data)
    tokenizer.padding_side = "right"  # positions are counted from the start of a window
    model = load_with_head(AutoModelForQuestionAnswering, run.model, settings, tokenizer)
    full = settings.max_length if settings.pad_to_max_length else None
    evaluates = settings.training.evaluation_strategy != "no"
    trainer = spread(EquallyWideTrainer, by_row)(
        model=model,
        args=TrainingArguments(
            **training_arguments(settings, run.checkpoints), include_num_input_tokens_seen="non_padding"
        ),
        train_dataset=_learned(run.tokens("train")),
        eval_dataset=_learned(run.tokens("validation")) if evaluates else None,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer, "max_length" if full else True, max_length=full),
        compute_metrics=_measure(run) if evaluates else None,
        preprocess_logits_for_metrics=lambda outputs, _labels: outputs[:2],
        callbacks=run.callbacks,
    )
    # The loss is always the mean over the windows of a batch, independent of the number of items.
    trainer.model_accepts_loss_kwargs = False
    return trainer


def _learned(windows: Any) -> Any:
    return windows.remove_columns([name for name in windows.column_names if name not in LEARNED])


def _measure(run: Run) -> Any:
    """Return the function that computes the metrics for metric_for_best_model, from 0 to 100."""
    rows = pq.read_table(run.data / "rows" / "validation.parquet")
    windows = pq.read_table(run.data / "tokens" / "validation.parquet", columns=["row", "first", "end"])
    columns = read_manifest(run.data, "data").lineage["settings"]["columns"]

    def measure(predicted: Any) -> dict[str, float]:
        starts, ends = predicted.predictions
        said = [answer.text for answer in answers_of(rows, windows, starts, ends, columns)]
        values = score_answers(said, references_of(rows))
        return {name: values[name] for name in ("exact", "f1")}

    return measure
