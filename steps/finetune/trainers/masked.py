"""Masked language modelling: the model puts back tokens that are hidden from it, others in every epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import Trainer, TrainingArguments

from steps.finetune.arguments import training_arguments
from steps.finetune.loading import load_tokenizer
from steps.finetune.masked_model import load_masked_model
from steps.finetune.run import Run


class HidingTrainer(Trainer):
    """Hides tokens when a batch is computed, not when it is fetched.

    Batches are fetched one ahead. A checkpoint's random state would then be that after the next batch was drawn, and a
    training that goes on would hide other tokens in it than an unbroken one.
    """

    hide: Callable[[dict[str, Any]], dict[str, Any]]

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        return super().training_step(model, self.hide(inputs), *rest, **more)


def build(run: Run) -> Any:
    """Make the trainer; which tokens of the validation rows are hidden was drawn once, by prepare_data."""
    settings = run.settings
    tokenizer = load_tokenizer(run.model, run.data)
    trainer = HidingTrainer(
        model=load_masked_model(run.model, settings),
        args=TrainingArguments(
            **training_arguments(settings, run.checkpoints), include_num_input_tokens_seen="non_padding"
        ),
        train_dataset=run.tokens("train"),
        eval_dataset=run.tokens("validation") if settings.training.evaluation_strategy != "no" else None,
        processing_class=tokenizer,
        data_collator=padding(tokenizer, settings.max_length * settings.pad_to_max_length),
        callbacks=run.callbacks,
    )
    trainer.hide = hiding(tokenizer, settings.mlm_probability)
    # Most of these heads take the mean over their batch's hidden tokens whatever they are told, and would make the
    # gradient gradient_accumulation_steps times too long if the Trainer relied on them to do otherwise.
    trainer.model_accepts_loss_kwargs = False
    return trainer


def padding(tokenizer: Any, width: int = 0) -> Callable[[list[dict[str, Any]]], Any]:
    """Make batches of equal rows, `width` tokens wide; 0 pads to a batch's longest row."""
    from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding

    wide = width or None
    labelled = DataCollatorForTokenClassification(tokenizer, pad_to_multiple_of=wide)
    plain = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=wide)
    return lambda rows: labelled(rows) if "labels" in rows[0] else plain(rows)


def hiding(tokenizer: Any, probability: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Hide some tokens of a batch and make them its labels, as transformers does.

    What is hidden comes from torch's global generator, whose state every checkpoint holds.
    """
    from transformers import DataCollatorForLanguageModeling

    drawing = DataCollatorForLanguageModeling(tokenizer, mlm_probability=probability)

    def hide(batch: dict[str, Any]) -> dict[str, Any]:
        ids = batch["input_ids"]
        hidden, labels = drawing.torch_mask_tokens(ids.cpu().clone())  # drawn on the CPU, as when a batch is fetched
        return {**batch, "input_ids": hidden.to(ids.device), "labels": labels.to(ids.device)}

    return hide
