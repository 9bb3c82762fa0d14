"""Load model and tokenizer, and make the adapter configuration, for all trainers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steps.finetune.adapters import adapter_config
from steps.finetune.continuing import continued
from steps.finetune.inference import set_end_of_turn
from steps.finetune.quantising import quantisation, train_in_float32
from steps.models.chat_templates import STORED
from steps.models.generation_settings import load_reduced, reduced
from steps.models.layout import refuse_unsafe_weights
from steps.models.quantising import keep_as_stored
from steps.params.settings import FinetuneSettings


def load_model(folder: Path, settings: FinetuneSettings) -> Any:
    """Load a causal language model for training.

    Trained weights are in float32 (bfloat16 loses small updates); with an adapter at precision 16 the frozen base is
    loaded in bfloat16, which halves its memory without affecting trained weights; load_in_4bit and load_in_8bit
    quantise it. If the imported model has an adapter, the result is a PEFT model with it.
    """
    from transformers import AutoModelForCausalLM

    model = new_or_stored(AutoModelForCausalLM, folder, settings)
    return continued(model, folder, settings) or model


def new_or_stored(auto_class: Any, folder: Path, settings: FinetuneSettings) -> Any:
    """Load a folder's weights, or initialise new weights from the seed for its configuration."""
    import torch
    from transformers import AutoConfig, set_seed

    frozen_half = settings.lora.apply_lora and settings.training.precision == "16"
    dtype = torch.bfloat16 if frozen_half else torch.float32
    if not settings.new_weights:
        refuse_unsafe_weights(folder)
        how = {**model_options(settings), **quantisation(settings)}
        return keep_as_stored(load_reduced(auto_class, folder, dtype=dtype, local_files_only=True, **how))
    set_seed(settings.training.seed)
    options = model_options(settings)
    attention = {key: options.pop(key) for key in ("attn_implementation",) if key in options}
    config = AutoConfig.from_pretrained(folder, local_files_only=True, **options)
    return reduced(auto_class.from_config(config, dtype=dtype, **attention))


def model_options(settings: FinetuneSettings) -> dict[str, Any]:
    """Return the user's changes of the model's configuration, and the attention implementation."""
    chosen = settings.training.attn_implementation
    return {**settings.training.model_args, **({} if chosen == "auto" else {"attn_implementation": chosen})}


def load_adapted(auto_class: Any, folder: Path, settings: FinetuneSettings) -> Any:
    """Load a model whose files contain its head; with LoRA as a PEFT model. Types as in `load_model`."""
    from transformers import set_seed

    set_seed(settings.training.seed)  # an adapter's initial weights are random
    model = new_or_stored(auto_class, folder, settings)
    if tuned := continued(model, folder, settings):
        return tuned
    if not settings.lora.apply_lora:
        return model
    from peft import get_peft_model

    tuned = get_peft_model(model, lora_config(settings, model))
    train_in_float32(tuned)
    if settings.training.gradient_checkpointing == "true":
        tuned.enable_input_require_grads()
    return tuned


def load_tokenizer(folder: Path, data: Path, pads_with_end: bool = False) -> Any:
    """Load the tokenizer with the chat template of the data, and set its end of a turn.

    The padding token is the model's end token if the tokenizer has none, and always with `pads_with_end`; the end of a
    turn is never used for padding.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    template = data / STORED
    if template.is_file():
        tokenizer.chat_template = template.read_text(encoding="utf-8")
    if tokenizer.pad_token is None or pads_with_end:
        tokenizer.pad_token = tokenizer.eos_token
    set_end_of_turn(tokenizer, folder, data)
    return tokenizer


def lora_config(settings: FinetuneSettings, model: Any, new_modules: Sequence[str] = ()) -> Any:
    """Return the PEFT configuration; None if every weight is trained, or if the model already has its adapter.

    `new_modules`, which the base does not have, are trained and saved as a whole.
    Raises UserError if none of the named modules exists in the model; names without a matching layer are logged.
    """
    if not settings.lora.apply_lora or hasattr(model, "peft_config"):
        return None
    return adapter_config(settings.lora, model, settings.recipe.kind.peft_task, new_modules)
