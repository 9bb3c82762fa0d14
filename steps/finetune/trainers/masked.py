"""Masked language modelling: the model predicts masked tokens, which are drawn anew in every epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import Trainer, TrainingArguments

from steps.finetune.arguments import training_arguments
from steps.finetune.loading import load_tokenizer
from steps.finetune.masked_model import load_masked_model
from steps.finetune.rows import by_label, spread
from steps.finetune.run import Run
from steps.launch.group import current


class HidingTrainer(Trainer):
    """Masks tokens when a batch is computed, not when it is fetched.

    Batches are fetched one ahead. If tokens were masked then, a checkpoint's random state would be that after the next
    batch was drawn, and a resumed training would mask other tokens than an uninterrupted one.
    """

    hide: Callable[[dict[str, Any], int | None], dict[str, Any]]
    real_rows: int | None = None

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        return super().training_step(model, self.hide(inputs, self.real_rows), *rest, **more)


def build(run: Run) -> Any:
    """Build the trainer; the masked tokens of the validation rows were drawn once, by prepare_data."""
    settings = run.settings
    tokenizer = load_tokenizer(run.model, run.data)
    trainer = spread(HidingTrainer, by_label)(
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
    # Most of these heads always average over the masked tokens of their batch. If the Trainer expected otherwise, the
    # gradient would be too large by the factor gradient_accumulation_steps.
    trainer.model_accepts_loss_kwargs = False
    return trainer


def padding(tokenizer: Any, width: int = 0) -> Callable[[list[dict[str, Any]]], Any]:
    """Return a collator that pads rows to `width` tokens; 0 pads to the longest row of a batch."""
    from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding

    wide = width or None
    labelled = DataCollatorForTokenClassification(tokenizer, pad_to_multiple_of=wide)
    plain = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=wide)
    return lambda rows: labelled(rows) if "labels" in rows[0] else plain(rows)


def hiding(tokenizer: Any, probability: float) -> Callable[[dict[str, Any], int | None], dict[str, Any]]:
    """Return a function that masks some tokens of a batch and sets them as labels, as transformers does.

    The tokens are drawn with torch's global generator, whose state is saved in every checkpoint.
    """
    from transformers import DataCollatorForLanguageModeling

    drawing = DataCollatorForLanguageModeling(tokenizer, mlm_probability=probability)

    def hide(batch: dict[str, Any], real: int | None = None) -> dict[str, Any]:
        ids = batch["input_ids"]
        place = _place(ids.shape, real)
        whole = ids.new_full(place.shape, tokenizer.pad_token_id, device="cpu")
        whole[place.rows, : ids.shape[1]] = ids[: place.real].cpu()
        hidden, labels = drawing.torch_mask_tokens(whole)  # on the CPU, as transformers' collator does
        own = [one[place.rows, : ids.shape[1]].to(ids.device) for one in (hidden, labels)]
        if not place.real:  # a row that does not count
            own = [ids, ids]
        return {**batch, "input_ids": own[0], "labels": own[1]}

    return hide


@dataclass(frozen=True)
class _Place:
    """Where the rows of this process are among those of the batch of all processes."""

    shape: tuple[int, int]
    rows: slice
    real: int


def _place(own: tuple[int, int], real: int | None) -> _Place:
    """Return the place of a batch of this shape; all processes draw for the same whole batch, as one would do."""
    count = own[0] if real is None else real
    shapes = current().all_of((count, own[1]))
    before = sum(rows for rows, _ in shapes[: current().rank])
    shape = (sum(rows for rows, _ in shapes), max(width for _, width in shapes))
    return _Place(shape, slice(before, before + count), count)
