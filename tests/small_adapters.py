"""Small adapters in PEFT's format, made offline in a second."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def save_adapter(base: Path, folder: Path, whole: float = 0.0, **settings: Any) -> Path:
    """Save a LoRA adapter of a base with random factors; `whole` is how much else that is trained was changed."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    saving = {name: settings.pop(name) for name in ("save_embedding_layers",) if name in settings}
    usual = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**{**usual, **settings}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight += torch.randn_like(weight) * (0.1 if "lora_" in name else whole)
    model.save_pretrained(folder, **saving)
    return folder


def logits_of(base: Path, adapter: Path) -> Any:
    """What PEFT computes for a base with an adapter, on a fixed text."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    with torch.no_grad():
        return model(input_ids=torch.arange(40).view(2, 20)).logits


def change_settings(adapter: Path, **settings: Any) -> Path:
    """Change adapter_config.json."""
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return adapter


def change_tensors(adapter: Path, change: Callable[[dict], dict]) -> Path:
    """Change adapter_model.safetensors."""
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    return adapter
