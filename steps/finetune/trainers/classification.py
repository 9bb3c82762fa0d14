"""Text classification with one or several classes per text: a new head, trained with transformers' Trainer."""

from __future__ import annotations

from typing import Any

import numpy as np

from steps.artifacts import read_manifest
from steps.finetune.arguments import training_arguments
from steps.finetune.continuing import refuse_other_classes
from steps.finetune.heads import load_with_head
from steps.finetune.loading import load_tokenizer
from steps.finetune.rows import by_row, spread
from steps.finetune.run import Run


def build(run: Run) -> Any:
    """Build the trainer; the rows have tokens and the numbers of their classes (`steps/prepare_data`)."""
    from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments

    settings = run.settings
    facts = read_manifest(run.data, "data").facts
    tokenizer = load_tokenizer(run.model, run.data)
    names, multilabel = facts["class_names"], facts["multilabel"]
    refuse_other_classes(run.model, names)
    model = load_with_head(
        AutoModelForSequenceClassification,
        run.model,
        settings,
        tokenizer,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        problem_type="multi_label_classification" if multilabel else "single_label_classification",
    )
    full = settings.max_length if settings.pad_to_max_length else None
    trainer = spread(Trainer, by_row)(
        model=model,
        args=TrainingArguments(
            **training_arguments(settings, run.checkpoints), include_num_input_tokens_seen="non_padding"
        ),
        train_dataset=run.tokens("train"),
        eval_dataset=run.tokens("validation") if settings.training.evaluation_strategy != "no" else None,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer, "max_length" if full else True, max_length=full),
        compute_metrics=measure_labels,
        preprocess_logits_for_metrics=_only_logits,
        callbacks=run.callbacks,
    )
    # The loss of a classifier is the mean over its batch. transformers 5.17 assumes that decoders with a head normalise
    # over all accumulated batches, so the gradient would be too large by the factor gradient_accumulation_steps.
    trainer.model_accepts_loss_kwargs = False
    return trainer


def measure_labels(predicted: Any) -> dict[str, float]:
    """Return the metrics for metric_for_best_model.

    Macro averages are over the classes that have rows; a class that is never predicted has precision 0. With several
    labels per row, accuracy is the share of rows with exactly the right labels, and mcc is not computed.
    """
    from sklearn import metrics

    logits, truth = predicted.predictions, predicted.label_ids
    several = truth.ndim == 2
    said = (logits > 0).astype(np.int64) if several else logits.argmax(axis=-1)
    present = np.flatnonzero(truth.any(axis=0)) if several else np.unique(truth)
    macro = metrics.precision_recall_fscore_support(truth, said, labels=present, average="macro", zero_division=0)
    values = {"accuracy": metrics.accuracy_score(truth, said)}
    values |= dict(zip(("precision_macro", "recall_macro", "f1_macro"), macro[:3], strict=True))
    if not several:
        values["mcc"] = metrics.matthews_corrcoef(truth, said)
    return {name: float(value) for name, value in values.items()}


def _only_logits(outputs: Any, _labels: Any) -> Any:
    """Drop hidden states, which encoder-decoders return too: kept for every row, they would fill the memory."""
    return outputs[0] if isinstance(outputs, tuple) else outputs
