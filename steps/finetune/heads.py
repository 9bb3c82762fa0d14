"""Load models with a head for the task; with an adapter, a new head is trained as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steps.errors import Problem, UserError
from steps.finetune.continuing import continued
from steps.finetune.loading import lora_config, model_options
from steps.finetune.quantising import quantisation, train_in_float32
from steps.finetune.weights import left_out
from steps.models.layout import refuse_unsafe_weights
from steps.models.quantising import keep_as_stored
from steps.params.settings import FinetuneSettings

# Modules that PEFT trains as a whole with an adapter for these tasks, whether they are new or not.
HEADS = ("classifier", "score", "qa_outputs")


def load_with_head(auto_class: Any, folder: Path, settings: FinetuneSettings, tokenizer: Any, **head: Any) -> Any:
    """Load a base model with a head for the task, for training; with LoRA as a PEFT model.

    `head` is set in the configuration (num_labels, …). Modules that the base's files do not have, usually the head,
    are initialised randomly from the seed, and with an adapter they are trained as a whole. Types as in
    `loading.load_model`. Raises UserError if transformers has no such head for this model type.
    """
    import torch

    refuse_unsafe_weights(folder)
    frozen_half = settings.lora.apply_lora and settings.training.precision == "16"
    how = {
        "dtype": torch.bfloat16 if frozen_half else torch.float32,
        "local_files_only": True,
        "ignore_mismatched_sizes": True,  # a head for another number of classes is replaced
        "output_loading_info": True,
        **model_options(settings),
        **head,
    }
    try:
        if settings.quantisation.bits:
            # transformers 5.17 would quantise heads with a bias, which are trained: new modules must be found first.
            empty = _load(auto_class, folder, settings, how | {"device_map": "meta"})
            how |= quantisation(settings, [*_new_modules(*empty), *HEADS])
        model, found = _load(auto_class, folder, settings, how)
    except RuntimeError as error:
        if not settings.deepspeed or "size mismatch" not in str(error):
            raise
        raise UserError(
            Problem("TRAIN-E0213", "model", "a head for another number of classes, with ZeRO-3",
                    "a head for this number of classes", "set deepspeed_stage=2",
                    why="transformers cannot replace a head in partitioned weights")
        ) from None  # fmt: skip
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type", "unknown")
        raise UserError(
            Problem("TRAIN-E0202", "model", f"a model of the type {kind}", f"one that {auto_class.__name__} supports",
                    "use another base model, such as a BERT or Llama model")
        ) from None  # fmt: skip
    keep_as_stored(model)
    # Decoders classify by the last token that is not padding, so they need the id of the padding token.
    model.config.pad_token_id = tokenizer.pad_token_id
    if tuned := continued(model, folder, settings):
        return tuned
    if not settings.lora.apply_lora:
        return model
    return _with_adapter(model, settings, _new_modules(model, found))


def _load(auto_class: Any, folder: Path, settings: FinetuneSettings, how: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Load a model and transformers' loading information; stored weights are renamed if the body has another name."""
    from transformers import set_seed

    set_seed(settings.training.seed)
    model, found = auto_class.from_pretrained(folder, **how)
    if settings.deepspeed:  # with ZeRO-3 transformers does not report unexpected keys
        found["unexpected_keys"] = found["unexpected_keys"] or left_out(model, folder)
    if renamed := _renamed_body(model, found):
        set_seed(settings.training.seed)
        model, found = auto_class.from_pretrained(folder, key_mapping=renamed, **how)
        # transformers 5.17 would save the weights under their old names, under which they could not be loaded.
        model._weight_conversions = [one for one in model._weight_conversions if not _renames(one, renamed)]
    return model, found


def _new_modules(model: Any, found: dict[str, Any]) -> list[str]:
    return modules_of(model, {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})


def _renamed_body(model: Any, found: dict[str, Any]) -> dict[str, str]:
    """Return the renaming of stored weights if transformers loaded none, because the model's body has another name.

    LlamaForQuestionAnswering and similar classes name the weights of model.… transformer.…, and would silently start
    with random weights.
    """
    inside = f"{model.base_model_prefix}."
    left_out = {name.partition(".")[0] for name in found["unexpected_keys"]} - {"lm_head"}
    body = {name for name, _ in model.named_parameters() if name.startswith(inside)}
    if len(left_out) == 1 and body and body <= set(found["missing_keys"]):
        return {rf"^{left_out.pop()}\.": inside}
    return {}


def _renames(conversion: Any, renamed: dict[str, str]) -> bool:
    return set(getattr(conversion, "target_patterns", ())) & set(renamed.values()) != set()


def modules_of(model: Any, names: Iterable[str]) -> list[str]:
    """Return the fewest modules that contain exactly these parameters, such as classifier for both of its layers."""
    wanted, found = set(names), []

    def walk(module: Any, path: str) -> None:
        for name, child in module.named_children():
            inside = f"{path}.{name}" if path else name
            own = {f"{inside}.{parameter}" for parameter, _ in child.named_parameters()}
            if own and own <= wanted:
                found.append(inside)
            elif own & wanted:
                walk(child, inside)

    walk(model, "")
    return found


def _with_adapter(model: Any, settings: FinetuneSettings, new: list[str]) -> Any:
    from peft import get_peft_model

    config = lora_config(settings, model, new)
    tuned = get_peft_model(model, config)
    train_in_float32(tuned)
    if settings.training.gradient_checkpointing == "true":
        tuned.enable_input_require_grads()
    return tuned
