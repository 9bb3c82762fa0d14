"""Continued training of adapters of every trainable kind; the results can be merged."""

import json
from pathlib import Path

import pytest
from conftest import chat_rows
from training_inputs import write_tokens

from steps import wire
from steps.evaluate.before import model_before
from steps.finetune.step import finetune
from steps.import_model.step import import_model
from steps.merge_adapter.step import merge_adapter
from steps.params.settings import FinetuneSettings, ImportSettings
from steps.plan.step import plan

pytestmark = pytest.mark.slow
KINDS = {
    "loha": ("LoHaConfig", {"r": 4, "alpha": 6}),
    "lokr": ("LoKrConfig", {"r": 4, "alpha": 6}),
    "ia3": ("IA3Config", {"feedforward_modules": []}),
    "dora": ("LoraConfig", {"r": 2, "use_dora": True}),
}


def trained_adapter(model: Path, folder: Path, kind: str) -> Path:
    """Save an adapter whose every weight differs from its start."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    name, settings = KINDS[kind]
    config = getattr(peft, name)(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **settings)
    torch.manual_seed(1)
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.05)
    adapted.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_any_kind_is_trained_further_and_merged(tiny_model, chat_file, tmp_path, monkeypatch, kind):
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    adapter = trained_adapter(tiny_model, tmp_path / "adapter", kind)
    given = {
        "pytorch_model_path": str(tiny_model),
        "train_file_path": str(chat_file),
        "adapter_path": str(adapter),
        "adapter_use": "continue",
        "number_of_gpu_to_use_finetuning": 0,
        "max_steps": 3,
        "learning_rate": 1e-2,
        "evaluation_strategy": "no",
    }
    made = plan("chat_completion", given, tmp_path / "plan", tmp_path / "plan.html")
    import_model(ImportSettings(**wire.load(made.model)), tmp_path / "model", tmp_path / "tokenizer")
    data = write_tokens(tmp_path / "data", AutoTokenizer.from_pretrained(tiny_model), chat_rows(60))
    settings = FinetuneSettings(**wire.load(made.training))
    finetune(settings, tmp_path / "model", data, tmp_path / "tuned", tmp_path / "checkpoints", tmp_path / "report.html")
    came, went = (json.loads((tmp_path / one / "adapter_config.json").read_text()) for one in ("adapter", "tuned"))
    assert "peft_type" in came
    for key in {"peft_type", "r", "alpha", "lora_alpha", "use_dora"} & came.keys():
        assert came[key] == went[key], key
    before, after = (load_file(tmp_path / one / "adapter_model.safetensors") for one in ("adapter", "tuned"))
    assert set(before) == set(after)
    assert any(not before[name].equal(after[name]) for name in before)
    merge_adapter(tmp_path / "model", tmp_path / "tuned", tmp_path / "merged")
    with model_before(tmp_path / "model", tmp_path / "near") as model:
        assert model != tmp_path / "model"  # what it is compared with has the adapter as it came
