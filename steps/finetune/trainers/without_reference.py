"""ORPO, CPO and SimPO with TRL's experimental trainers: preference training without a reference model.

These trainers tokenise differently from DPO's: they append the end token even if the template already ended the answer.
Here they get the tokens of prepare_data, which are DPO's, so that all methods are trained on the same tokens.
"""

from __future__ import annotations

import importlib
import os
from importlib.metadata import version
from typing import Any

from steps.errors import Problem, UserError
from steps.finetune.arguments import training_arguments
from steps.finetune.loading import load_model
from steps.finetune.quantising import with_exact_adapter
from steps.finetune.rows import by_row, spread
from steps.finetune.run import Run
from steps.finetune.trainers.trl_inputs import trl_inputs
from steps.launch.group import current

NO_LOSS = -100


def build_orpo(run: Run) -> Any:
    """Build the ORPO trainer."""
    trl = _experimental("orpo")
    return _build(run, trl.ORPOTrainer, trl.ORPOConfig, beta=run.settings.preferred.beta)


def build_cpo(run: Run) -> Any:
    """Build the CPO trainer; SimPO is its loss simpo with cpo_alpha=0."""
    trl, wanted = _experimental("cpo"), run.settings.preferred
    return _build(
        run,
        trl.CPOTrainer,
        trl.CPOConfig,
        beta=wanted.beta,
        loss_type=wanted.losses[0],
        label_smoothing=wanted.label_smoothing,
        simpo_gamma=wanted.simpo_gamma,
        cpo_alpha=0.0 if wanted.method == "simpo" else wanted.cpo_alpha,
    )


def _experimental(name: str) -> Any:
    """Import one of TRL's experimental trainers. Raises UserError if this version of TRL does not have it."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    try:
        return importlib.import_module(f"trl.experimental.{name}")
    except ImportError as error:
        raise UserError(
            Problem("TRAIN-E0204", "method", f"trl {version('trl')}, which has no experimental {name} ({error})",
                    f"a version with trl.experimental.{name}, such as 1.16", "set method=dpo, or install trl 1.16")
        ) from error  # fmt: skip


def _build(run: Run, trainer: Any, config: Any, **loss: Any) -> Any:
    settings = run.settings
    model = load_model(run.model, settings)
    arguments = config(
        **training_arguments(settings, run.checkpoints),
        max_length=settings.max_length,
        remove_unused_columns=False,
        **loss,
    )
    made = spread(_on_prepared(trainer), by_row)(args=arguments, **trl_inputs(run, model))
    return with_exact_adapter(made, settings)


def _on_prepared(trainer: Any) -> Any:
    """Derive a trainer that uses prepared tokens, and counts them."""

    class Prepared(trainer):
        tokenize_row = staticmethod(labelled)
        tokens_seen = 0

        def get_batch_loss_metrics(self, model: Any, batch: dict[str, Any], train_eval: str = "train") -> Any:
            if train_eval == "train" and getattr(self, "real_rows", None) != 0:
                masks = (batch["chosen_attention_mask"], batch["rejected_attention_mask"])
                self.tokens_seen += sum(int(mask.sum()) for mask in masks)
            return super().get_batch_loss_metrics(model, batch, train_eval)

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if "loss" in logs:
                logs["num_tokens"] = sum(current().all_of(self.tokens_seen))
            super().log(logs, start_time)

    return Prepared


def labelled(row: dict[str, list[int]], model: Any = None) -> dict[str, list[int]]:
    """Return one row as these trainers prepare it: prompt and answer joined, the prompt without loss."""
    prompt = row["prompt_ids"]
    made = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
    for name in ("chosen", "rejected"):
        answer = row[f"{name}_ids"]
        made |= {
            f"{name}_input_ids": prompt + answer,
            f"{name}_attention_mask": [1] * (len(prompt) + len(answer)),
            f"{name}_labels": [NO_LOSS] * len(prompt) + answer,
        }
    return made
