"""Train the embeddings of new tokens with an adapter; other rows of the embeddings are unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.artifacts import read_manifest
from steps.errors import Problem, UserError


def with_new_tokens(adapter: Any, folder: Path, model: Any) -> Any:
    """Make an adapter's configuration (None without adapter) train the rows that import_model added to the base.

    `folder` is the model's artifact. Raises UserError if this kind of adapter or model does not support single rows.
    """
    numbers = sorted((read_manifest(folder).facts.get("new_tokens") or {}).values())
    if adapter is None or not numbers:
        return adapter
    if not hasattr(adapter, "trainable_token_indices"):
        raise _cannot(f"an adapter of the kind {getattr(adapter.peft_type, 'value', adapter.peft_type)}",
                      "a LoRA adapter, or apply_lora=false")  # fmt: skip
    entry, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {id(module): name for name, module in model.named_modules()}
    rows = {names[id(entry)]: numbers}
    if head is not None and head.weight is not entry.weight:
        rows[names[id(head)]] = numbers
    if getattr(head, "bias", None) is not None:
        # PEFT's layer for single rows ignores the bias (peft 0.21), so the trained model would differ from the saved.
        raise _cannot(f"{names[id(head)]} with a bias", "apply_lora=false")
    adapter.trainable_token_indices = rows
    _have_no_bias()
    return adapter


def _have_no_bias() -> None:
    """Give PEFT's layer for single rows the attribute bias=None: TRL 1.16 reads weight and bias of the head."""
    from peft.utils.other import TrainableTokensWrapper

    setattr(TrainableTokensWrapper, "bias", None)  # noqa: B010, the class does not declare the attribute


def _cannot(found: str, instead: str) -> UserError:
    return UserError(
        Problem("TRAIN-E0214", "new tokens", found, "an adapter that trains the rows of new tokens",
                f"use {instead}; or do not add tokens (additional_special_tokens, add_template_tokens=false)")
    )  # fmt: skip
