"""Bases and adapters for merges, PEFT's own merge of them, and comparisons bit by bit.

The fixtures here are known to every test (`pytest_plugins` in conftest.py).
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import build_model

from steps.artifacts import new_artifact
from steps.errors import UserError
from steps.merge_adapter.step import merge_adapter


def build_gpt2(folder: Path, backbone_only: bool = False) -> None:
    """Save a random GPT-2: its layers store (in, out), and attn.c_proj is square."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=320, n_embd=64, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    (model.transformer if backbone_only else model).save_pretrained(folder)


BASES: dict[str, Callable[[Path], None]] = {
    "tied": build_model,
    "untied": lambda folder: build_model(folder, tie_word_embeddings=False, attention_bias=True),
    "bfloat16": lambda folder: _build_as(folder, "bfloat16", tie_word_embeddings=False),
    "float16": lambda folder: _build_as(folder, "float16", tie_word_embeddings=False),
    "sharded": lambda folder: _build_as(folder, "bfloat16", shards="60KB"),
    "gpt2": build_gpt2,
}


def _build_as(folder: Path, dtype: str, shards: str = "5GB", **changes: object) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    build_model(folder, **changes)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    for file in folder.glob("*.safetensors"):
        file.unlink()
    model.save_pretrained(folder, max_shard_size=shards)


@pytest.fixture(scope="session")
def bases(shared) -> Callable[[str], Path]:
    """Base models by name, each built once."""
    return lambda name: shared.made(f"base, {name}", BASES[name])


def make_adapter(base: Path, folder: Path, dtype: str = "float32", scale: float = 0.05, **settings: object) -> Path:
    """Save a LoRA adapter as PEFT makes it, with everything that training would have changed made random."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    saving = {name: settings.pop(name) for name in ("save_embedding_layers",) if name in settings}
    defaults = {"r": 4, "lora_alpha": 7, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**{**defaults, **settings}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad and (scale or "lora_B" in name):
                weight.copy_((weight + torch.randn_like(weight) * scale) if scale else torch.zeros_like(weight))
    if dtype != "float32":
        model.to(getattr(torch, dtype))
    model.save_pretrained(folder, **saving)
    return folder


def tensors_of(folder: Path) -> dict:
    from safetensors.torch import load_file

    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def merged_by_peft(base: Path, adapter: Path, folder: Path) -> dict:
    """Merge with PEFT in the usual three lines and read back what it saved."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    model.merge_and_unload().save_pretrained(folder)
    return tensors_of(folder)


def differing(one: dict, other: dict) -> list[str]:
    """Names of tensors that differ in a single bit, in type or in shape."""
    import torch

    assert one.keys() == other.keys()
    return [
        name
        for name in one
        if one[name].dtype != other[name].dtype
        or one[name].shape != other[name].shape
        or not torch.equal(one[name].contiguous().view(torch.uint8), other[name].contiguous().view(torch.uint8))
    ]


def as_artifact(source: Path, path: Path, kind: str, lineage: dict | None = None) -> Path:
    with new_artifact(path, kind, lineage) as draft:
        shutil.copytree(source, draft.path, dirs_exist_ok=True)
        draft.facts = {"architecture": "LlamaForCausalLM", "left_out": ["x"]} if kind == "model" else {}
    return path


def refused(base: Path, adapter: Path, code: str, words: str = "", error: type[Exception] = UserError) -> str:
    """Merge, expect a refusal with this code and these words, and nothing on disk."""
    output = adapter.parent / "merged"
    with pytest.raises(error) as caught:
        merge_adapter(base, adapter, output)
    assert any(problem.code == code for problem in caught.value.problems), str(caught.value)
    assert words in str(caught.value)
    assert not list(adapter.parent.glob("merged*"))
    return str(caught.value)


def change_settings(adapter: Path, **settings: object) -> Path:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return adapter


def change_tensors(adapter: Path, change: Callable[[dict], dict]) -> Path:
    from safetensors.torch import load_file, save_file

    save_file(change(load_file(adapter / "adapter_model.safetensors")), adapter / "adapter_model.safetensors")
    return adapter


@pytest.fixture
def good(bases, tmp_path) -> tuple[Path, Path]:
    """A base and an adapter that fit."""
    return bases("tied"), make_adapter(bases("tied"), tmp_path / "adapter", target_modules=["q_proj", "v_proj"])
