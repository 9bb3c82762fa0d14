"""Rows for causal language models, with labels for all tokens or only for answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.artifacts import Draft
from steps.errors import Problem, UserError
from steps.params.settings import DataSettings
from steps.prepare_data.check.checking import DataCheck
from steps.prepare_data.check.splitting import SPLITS
from steps.prepare_data.write.markers import read_markers
from steps.prepare_data.write.settling import settle, settle_clock, store_templates
from steps.prepare_data.write.splits import Preparation, write_split
from steps.prepare_data.write.templates import end_of_turn, load_tokenizer, stop_is_learned, training_template
from steps.tasks import load_task


def prepare(settings: DataSettings, folder: Path) -> Preparation:
    """Load the tokenizer and select the chat template. Raises UserError if they do not fit the settings."""
    preprocessing = settings.preprocessing
    tokenizer = load_tokenizer(folder, preprocessing.chat_template)
    markers = read_markers(preprocessing, tokenizer)
    preparation = Preparation(settings, load_task(settings.task), tokenizer, markers=markers)
    if settings.task != "chat_completion":
        _refuse_text_without_end(settings, tokenizer)
        return preparation
    settle(preparation)
    if preprocessing.train_on_completions_only:
        if not tokenizer.is_fast:
            raise UserError(
                Problem("DATA-E0809", "train_on_completions_only", "a tokenizer without tokenizer.json",
                        "a fast tokenizer, which maps characters to tokens",
                        "convert the tokenizer, or set train_on_completions_only to false")
            )  # fmt: skip
        preparation.template = training_template(tokenizer)
        if preparation.template:
            preparation.template_name += ", with TRL's generation marks around the answers"
        if not stop_is_learned(tokenizer, preparation.template):
            preparation.warn("DATA-W0801", "the chat template excludes the end of the assistant's turn from the loss: "
                             "the model may not learn to stop")  # fmt: skip
    settle_clock(preparation)
    return preparation


def write(draft: Draft, preparation: Preparation, checked: DataCheck) -> dict[str, Any]:
    """Write every split and return the facts. Raises UserError with the problems of all splits."""
    settings = preparation.settings
    splits = {name: write_split(draft, name, checked.rows[name], preparation) for name in SPLITS}
    preparation.refuse_if_problems(splits)
    if settings.task == "chat_completion":
        store_templates(draft, preparation)
    return {
        "task": settings.task,
        "max_length": settings.max_length,
        "packing": settings.preprocessing.packing,
        "template": preparation.template_name,
        "end_of_turn": end_of_turn(preparation.tokenizer) if settings.task == "chat_completion" else "",
        "splits": splits,
        "sources": checked.sources,
        "repairs": checked.repairs,
        "warnings": checked.warnings + preparation.warnings,
        "samples": preparation.samples,
    }


def _refuse_text_without_end(settings: DataSettings, tokenizer: Any) -> None:
    if not tokenizer.eos_token:
        raise UserError(
            Problem("DATA-E0807", "tokenizer", "no end-of-text token", "eos_token in tokenizer_config.json",
                    "add it to the model's tokenizer files")
        )  # fmt: skip
    whole = settings.task == "text_generation" and not settings.columns.get("ground_truth_key")
    if settings.preprocessing.train_on_completions_only and whole:
        raise UserError(
            Problem("PARAM-E0206", "train_on_completions_only", "true without ground_truth_key",
                    "a column with the text to learn", "set ground_truth_key")
        )  # fmt: skip
