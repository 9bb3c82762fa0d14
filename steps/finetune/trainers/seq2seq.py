"""Encoder-decoder models that learn to write an answer to a text, trained with transformers' Seq2SeqTrainer."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np

from steps.artifacts import read_manifest
from steps.finetune.arguments import training_arguments
from steps.finetune.loading import load_adapted
from steps.finetune.rows import by_label, spread
from steps.finetune.run import Run
from steps.generation.decoding import answer_tokens
from steps.generation.encoder_decoders import answering, opening_tokens
from steps.models.seq2seq import Languages, load_tokenizer
from steps.scoring.text_metrics import generated_length, score_texts

NO_LOSS = -100


def build(run: Run) -> Any:
    """Build the trainer; with `max_new_tokens` it generates and scores answers at every evaluation."""
    from transformers import (
        AutoModelForSeq2SeqLM,
        DataCollatorForSeq2Seq,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
    )

    settings = run.settings
    facts = read_manifest(run.data, "data").facts
    tokenizer = load_tokenizer(run.model, Languages(**facts["languages"]) if facts["languages"] else None)
    model = load_adapted(AutoModelForSeq2SeqLM, run.model, settings)
    for name, token in facts["opening"].items():  # saved with the model, so that users need not pass them
        setattr(model.generation_config, name, token)
    writes = settings.max_new_tokens > 0
    how = answering(model, tokenizer, settings.max_new_tokens, settings.num_beams, facts["opening"]) if writes else None
    trainer = spread(Seq2SeqTrainer, by_label)(
        model=model,
        args=Seq2SeqTrainingArguments(
            **training_arguments(settings, run.checkpoints),
            include_num_input_tokens_seen="non_padding",
            predict_with_generate=writes,
        ),
        train_dataset=run.tokens("train"),
        eval_dataset=run.tokens("validation") if settings.training.evaluation_strategy != "no" else None,
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model, label_pad_token_id=NO_LOSS),
        compute_metrics=(lambda predicted: measure_answers(predicted, tokenizer, model, how)) if writes else None,
        callbacks=run.callbacks,
    )
    # Most of these models always average over the tokens of their batch. If the Trainer expected otherwise, the
    # gradient would be too large by the factor gradient_accumulation_steps.
    trainer.model_accepts_loss_kwargs = False
    if writes:
        _write_as_told(trainer, how)
    return trainer


def measure_answers(predicted: Any, tokenizer: Any, model: Any, how: Any) -> dict[str, float]:
    """Return the metrics for metric_for_best_model, and the mean length of an answer in tokens as gen_len.

    `how` are the settings of the generation.
    """
    opening, padding, ends = opening_tokens(model, tokenizer, how), tokenizer.pad_token_id, how.eos_token_id or ()
    written, right = (
        [answer_tokens(row, ends, padding, opening) for row in np.where(ids == NO_LOSS, padding, ids).tolist()]
        for ids in (predicted.predictions, predicted.label_ids)
    )
    answers, references = (list(tokenizer.batch_decode(ids)) for ids in (written, right))
    return {**score_texts(answers, references), **generated_length([len(ids) for ids in written])}


def _write_as_told(trainer: Any, how: Any) -> None:
    """Make every evaluation generate answers with the settings `how`, without changing the model's own settings.

    The Trainer would add defaults to the model's settings and save them with the model (transformers 5.17).
    """
    evaluate, model = trainer.evaluate, trainer.model

    def evaluate_as_told(*given: Any, **named: Any) -> Any:
        kept = deepcopy(model.generation_config)
        try:
            return evaluate(*given, **named, generation_config=how)
        finally:
            model.generation_config = kept

    trainer.evaluate = evaluate_as_told
