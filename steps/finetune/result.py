"""Write the result of a training as the artifact `tuned`; only complete results with finite weights are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steps.artifacts import code_digest, new_artifact, read_manifest
from steps.errors import NumericError, Problem, StepError
from steps.finetune.inference import name_padding, save_tokenizer, stops_anew, write_generation_settings
from steps.finetune.weights import change_dtype, whole_weights
from steps.launch.group import current
from steps.params.settings import FinetuneSettings
from steps.tracking import UNSENT, Tracker


def lineage_of(settings: FinetuneSettings, inputs: dict[str, str]) -> dict[str, Any]:
    """Return what the result follows from; the number of processes is no part of it."""
    own = settings.model_dump(mode="json", exclude={"checkpoints", "tracking", "pruning", "processes", "nodes"})
    return {"inputs": inputs, "settings": own}


def is_written(tuned: Path, settings: FinetuneSettings, inputs: dict[str, str]) -> bool:
    """Return whether `tuned` is the whole result of this training."""
    try:
        written = read_manifest(tuned, ("adapter", "model")).lineage
    except StepError:
        return False
    return written == {"code": code_digest(), **lineage_of(settings, inputs)}


def write_tuned(
    trainer: Any,
    settings: FinetuneSettings,
    inputs: dict[str, str],
    history: dict[str, Any],
    model: Path,
    tuned: Path,
    tracker: Tracker,
) -> None:
    """Write weights, tokenizer and history; all processes call this, because they gather the weights together.

    Raises NumericError if a weight is not finite.
    """
    weights = whole_weights(trainer)
    if not current().is_first:
        return
    _refuse_non_finite(weights if weights is not None else dict(trainer.model.named_parameters()))
    kind = "adapter" if settings.lora.apply_lora else "model"
    base = read_manifest(model)
    if settings.pads_with_end:
        name_padding(trainer.processing_class, trainer.model, model)
    with new_artifact(tuned, kind, lineage_of(settings, inputs)) as draft:
        if kind == "adapter":
            # With a merged adapter or new tokens, the base of this adapter is not the model at the source.
            changed = base.lineage.get("adapter", {}).get("use") == "merge" or base.facts.get("new_tokens")
            source = "" if changed else base.lineage.get("source", "")
            trainer.model.peft_config["default"].base_model_name_or_path = source
            trainer.model.save_pretrained(draft.path, state_dict=weights, save_embedding_layers=False)
            if settings.recipe.kind.has_encoder:
                # The generation settings define how answers begin, by the languages.
                write_generation_settings(trainer.model.get_base_model(), model, draft.path)
            elif stops_anew(trainer.model, model):
                write_generation_settings(trainer.model, model, draft.path)
            if getattr(trainer.model.peft_config["default"], "modules_to_save", None):
                # The merge needs the tuned model's configuration: its head, which the base does not have, and classes.
                whole = trainer.model.get_base_model()
                whole.config.architectures = [type(whole).__name__]
                whole.config.save_pretrained(draft.path)
        else:
            if settings.training.precision == "16":
                dtype = _dtype_of(model)
                trainer.model.to(dtype) if weights is None else change_dtype(weights, dtype)
            trainer.model.save_pretrained(draft.path, state_dict=weights)
            if getattr(trainer.model, "generation_config", None) is not None:
                write_generation_settings(trainer.model, model, draft.path)
        save_tokenizer(trainer.processing_class, draft.path, ends_prompts=not settings.recipe.kind.goes_on)
        (draft / "history.json").write_text(json.dumps(history, indent=1), encoding="utf-8")
        if hasattr(trainer, "write_beside"):
            trainer.write_beside(draft.path)
        tracker.write_unsent(draft.path)
        draft.facts = {"parameters": history["parameters"], "steps": history["steps"]}
    if (tuned / UNSENT).is_file():
        tracker.tell(tuned / UNSENT, tracker.unsent())


def _dtype_of(model: Path) -> Any:
    """Return the dtype of the base's files; a float32 result of mixed precision would be twice as large."""
    import torch

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "float32"))


def _refuse_non_finite(weights: dict[str, Any]) -> None:
    bad = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if bad:
        raise NumericError(
            Problem("TRAIN-E0602", f"{len(bad)} tensors, such as {bad[0]}", "NaN or infinity", "finite weights",
                    "lower learning_rate")
        )  # fmt: skip
