"""Masked language modelling: the model puts back tokens that are hidden from it, others in every epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from steps.finetune.arguments import training_arguments
from steps.finetune.loading import load_tokenizer
from steps.finetune.masked_model import load_masked_model
from steps.finetune.run import Run


def build(run: Run) -> Any:
    """Make the trainer; which tokens of the validation rows are hidden was drawn once, by prepare_data."""
    from transformers import Trainer, TrainingArguments

    settings = run.settings
    tokenizer = load_tokenizer(run.model, run.data)
    trainer = Trainer(
        model=load_masked_model(run.model, settings),
        args=TrainingArguments(
            **training_arguments(settings, run.checkpoints), include_num_input_tokens_seen="non_padding"
        ),
        train_dataset=run.tokens("train"),
        eval_dataset=run.tokens("validation") if settings.training.evaluation_strategy != "no" else None,
        processing_class=tokenizer,
        data_collator=collator(tokenizer, settings.mlm_probability, settings.max_length * settings.pad_to_max_length),
        callbacks=run.callbacks,
    )
    # Most of these heads take the mean over their batch's hidden tokens whatever they are told, and would make the
    # gradient gradient_accumulation_steps times too long if the Trainer relied on them to do otherwise.
    trainer.model_accepts_loss_kwargs = False
    return trainer


def collator(tokenizer: Any, probability: float, width: int = 0) -> Callable[[list[dict[str, Any]]], Any]:
    """Make batches: rows without labels get some of their tokens hidden, rows with labels are only padded.

    `width` is what every batch is padded to; 0 pads to its longest row. What is hidden comes from torch's global
    generator, whose state every checkpoint holds.
    """
    from transformers import DataCollatorForLanguageModeling, DataCollatorForTokenClassification

    wide = width or None
    hiding = DataCollatorForLanguageModeling(tokenizer, mlm_probability=probability, pad_to_multiple_of=wide)
    padding = DataCollatorForTokenClassification(tokenizer, pad_to_multiple_of=wide)
    return lambda rows: padding(rows) if "labels" in rows[0] else hiding(rows)
