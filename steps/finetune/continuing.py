"""Load the adapter of an imported model to continue its training."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from steps.adapters.layout import adapter_of, kept_adapter_of
from steps.errors import Problem, UserError
from steps.finetune.quantising import train_in_float32
from steps.models.layout import refuse_unsafe_weights
from steps.params.settings import FinetuneSettings


def continued(model: Any, folder: Path, settings: FinetuneSettings) -> Any | None:
    """Return `model` with the trainable adapter of the imported model in `folder`; None if that has no adapter.

    Raises UserError if the settings would train every weight instead, or for a learned prompt.
    """
    own = adapter_of(folder)
    if own is None:
        return None
    if not settings.lora.apply_lora:
        raise UserError(
            Problem("TRAIN-E0215", "apply_lora", f"false with an adapter to continue training ({own})", "true",
                    "set apply_lora=true, or import the model with adapter_use=merge")
        )  # fmt: skip
    if kept_adapter_of(folder):
        raise UserError(
            Problem("TRAIN-E0217", str(own), "a learned prompt, which cannot be trained further", "a model without one",
                    "name the model that it was trained on")
        )  # fmt: skip
    refuse_unsafe_weights(own)
    from peft import PeftModel

    tuned = PeftModel.from_pretrained(model, str(own), is_trainable=True)
    train_in_float32(tuned)
    if settings.training.gradient_checkpointing == "true":
        tuned.enable_input_require_grads()
    # Preference trainers add a frozen copy as reference. It must not be saved with the adapter, because on resume
    # transformers 5.17 would load only this copy from a checkpoint.
    tuned.save_pretrained = partial(tuned.save_pretrained, selected_adapters=["default"])  # type: ignore[method-assign]
    return tuned


def own_parameters(model: Any) -> list[Any]:
    """Return a model's parameters without the copy of an adapter that is the reference for preference training."""
    copied = "ref" in getattr(model, "peft_config", ())
    return [one for name, one in model.named_parameters() if not (copied and ".ref." in name)]


def refuse_other_classes(folder: Path, names: list[str]) -> None:
    """Raise UserError if the adapter's head has other classes than the rows, or in another order."""
    own = adapter_of(folder)
    if own is None or not (own / "config.json").is_file():
        return
    known = json.loads((own / "config.json").read_text(encoding="utf-8")).get("id2label") or {}
    classes = [known[number] for number in sorted(known, key=int)]
    if classes != names:
        raise UserError(
            Problem("TRAIN-E0216", "adapter_path", f"an adapter for the classes {', '.join(classes)}",
                    f"the classes of the rows: {', '.join(names)}",
                    "use rows with the same classes, or set adapter_use=merge to train a new head")
        )  # fmt: skip
