"""Token classification, a tag for each word: a new head, trained with transformers' Trainer."""

from __future__ import annotations

from typing import Any

from steps.artifacts import read_manifest
from steps.finetune.arguments import training_arguments
from steps.finetune.continuing import refuse_other_classes
from steps.finetune.heads import load_with_head
from steps.finetune.rows import by_label, spread
from steps.finetune.run import Run
from steps.models.word_tokenizer import load_word_tokenizer
from steps.scoring.tag_metrics import score_tags

NO_LOSS = -100


def build(run: Run) -> Any:
    """Build the trainer; the rows have tokens, and at the first token of each word the number of its tag."""
    from transformers import (
        AutoModelForTokenClassification,
        DataCollatorForTokenClassification,
        Trainer,
        TrainingArguments,
    )

    settings = run.settings
    names = read_manifest(run.data, "data").facts["class_names"]
    tokenizer = load_word_tokenizer(run.model)
    refuse_other_classes(run.model, names)
    model = load_with_head(
        AutoModelForTokenClassification,
        run.model,
        settings,
        tokenizer,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    full = settings.max_length if settings.pad_to_max_length else None
    trainer = spread(Trainer, by_label)(
        model=model,
        args=TrainingArguments(
            **training_arguments(settings, run.checkpoints), include_num_input_tokens_seen="non_padding"
        ),
        train_dataset=run.tokens("train").remove_columns("words"),
        eval_dataset=(
            run.tokens("validation").remove_columns("words") if settings.training.evaluation_strategy != "no" else None
        ),
        processing_class=tokenizer,
        data_collator=DataCollatorForTokenClassification(tokenizer, "max_length" if full else True, max_length=full),
        compute_metrics=lambda predicted: measure_tags(predicted, names),
        preprocess_logits_for_metrics=_likeliest,
        callbacks=run.callbacks,
    )
    # Most of these heads always average over the words of their batch. If the Trainer expected otherwise, the
    # gradient would be too large by the factor gradient_accumulation_steps.
    trainer.model_accepts_loss_kwargs = False
    return trainer


def measure_tags(predicted: Any, names: list[str]) -> dict[str, float]:
    """Return the metrics for metric_for_best_model, over whole entities; 0 if one has no value."""
    truth, said = [], []
    for right, guessed in zip(predicted.label_ids, predicted.predictions, strict=True):
        places = right != NO_LOSS
        truth.append([names[number] for number in right[places]])
        said.append([names[number] for number in guessed[places]])
    values = score_tags(truth, said).values
    return {name: values.get(name, 0.0) for name in ("accuracy", "precision", "recall", "f1")}


def _likeliest(outputs: Any, _labels: Any) -> Any:
    """Return the number of the most probable tag; the logits of all tags would fill the memory."""
    return (outputs[0] if isinstance(outputs, tuple) else outputs).argmax(dim=-1)
