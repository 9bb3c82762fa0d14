"""Adapters trained with PEFT only, as input of a run."""

import json
from pathlib import Path

from steps.params.settings import AdapterFound, ImportSettings, ModelSourceFound, Resolved
from steps.sources.storage import digest_of


def make_adapter(base: Path, folder: Path, auto_class: str = "AutoModelForCausalLM", **settings: object) -> Path:
    """Save a LoRA adapter with everything that training would have changed made random; `head` goes to the model."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    head = settings.pop("head", {})
    defaults = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    torch.manual_seed(1)
    model = getattr(transformers, auto_class).from_pretrained(base, **head)
    tuned = get_peft_model(model, LoraConfig(**{**defaults, **settings}))
    with torch.no_grad():
        for weight in tuned.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.05)
    tuned.save_pretrained(folder, save_embedding_layers=False)
    if head:
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
    return folder


def resolved(folder: Path) -> dict:
    return {"kind": "pytorch", "source": Resolved(uri=str(folder), digest=digest_of("path", str(folder)))}


def import_settings(base: Path, adapter: Path | None = None, use: str = "merge", reference: Path | None = None):
    """Give the settings of import_model as the plan would."""
    return ImportSettings(
        **resolved(base),
        adapter=AdapterFound(**resolved(adapter), use=use) if adapter else None,
        reference=ModelSourceFound(**resolved(reference)) if reference else None,
    )


def change_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
