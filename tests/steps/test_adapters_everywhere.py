"""Every trainer with every kind of adapter that it supports: resumes bit for bit, and its result can be merged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import test_classification_training
import test_masked
import test_seq2seq
from classifiers import BUILDERS, build_bert, label_rows
from conftest import chat_rows
from encoder_decoders import BUILDERS as TRANSLATORS
from grids import long_but
from preferences import pair_rows, prepared, rated_rows
from training_inputs import TRAINING, as_imported, write_tokens

from steps.finetune.step import finetune
from steps.merge_adapter.step import merge_adapter
from steps.params.lora import LoraParams
from steps.params.settings import FinetuneSettings
from steps.params.training import CheckpointParams, TrainingParams

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_root")]

NF4 = {"quantisation": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}
INT8 = {"quantisation": {"load_in_8bit": True}}
# Base, what the model puts out, the method of learning preferences.
TRAINED: dict[str, tuple[str, str, str]] = {
    "sft": ("llama", "causal_lm", ""),
    "dpo": ("llama", "causal_lm", "dpo"),
    "kto": ("llama", "causal_lm", "kto"),
    "orpo": ("llama", "causal_lm", "orpo"),
    "simpo": ("llama", "causal_lm", "simpo"),
    "classes": ("bert", "sequence_classification", ""),
    "classes of GPT-2": ("gpt2 backbone", "sequence_classification", ""),
    "hidden words": ("bert", "masked_lm", ""),
    "T5": ("t5", "seq2seq_lm", ""),
    "BART": ("bart", "seq2seq_lm", ""),
}
ADAPTERS: dict[str, tuple[dict, dict]] = {
    "QLoRA": ({"lora_alpha": 16}, NF4),
    "8 bits": ({"lora_alpha": 16}, INT8),
    "IA3": ({"peft_type": "ia3"}, {}),
    "QIA3": ({"peft_type": "ia3"}, NF4),
    "LoHa": ({"peft_type": "loha", "lora_r": 4, "lora_alpha": 8}, {}),
    "LoKr": ({"peft_type": "lokr", "lora_r": 4, "lora_alpha": 8}, {}),
    "DoRA": ({"use_dora": True, "lora_alpha": 16}, {}),
}
# Each trainer with some, each adapter with several.
PAIRS = [
    ("sft", "QLoRA"), ("sft", "LoKr"), ("dpo", "QLoRA"), ("dpo", "IA3"), ("kto", "8 bits"), ("kto", "LoHa"),
    ("orpo", "QLoRA"), ("simpo", "QIA3"), ("simpo", "8 bits"), ("classes", "IA3"), ("classes", "LoHa"),
    ("classes", "QLoRA"), ("classes", "DoRA"), ("classes of GPT-2", "IA3"), ("classes of GPT-2", "QLoRA"),
    ("T5", "IA3"), ("T5", "QLoRA"), ("T5", "8 bits"),
    ("BART", "LoHa"), ("BART", "QLoRA"), ("hidden words", "QLoRA"), ("hidden words", "LoKr"),
]  # fmt: skip


def inputs(name: str, folder: Path) -> tuple[Path, Path]:
    """Make a base and the data of a trainer."""
    base, kind, method = TRAINED[name]
    if kind == "sequence_classification":
        return test_classification_training.made(folder, base, label_rows(90))
    build: Callable[[Path], None] = {**BUILDERS, **TRANSLATORS, "bert": build_bert}[base]
    (folder / "source").mkdir()
    build(folder / "source")
    model = as_imported(folder / "source", folder / "model")
    if kind == "masked_lm":
        return model, test_masked.prepared(model, folder / "rows")
    if kind == "seq2seq_lm":
        return model, test_seq2seq.prepared(model, folder / "rows", base)
    if method:
        rows = rated_rows(72) if method == "kto" else pair_rows(72)
        return model, prepared(model, folder / "rows", rows)
    from transformers import AutoTokenizer

    return model, write_tokens(folder / "data", AutoTokenizer.from_pretrained(model), chat_rows(50))


def settings_of(name: str, adapter: str, resume: str = "false") -> FinetuneSettings:
    _, kind, method = TRAINED[name]
    lora, stored = ADAPTERS[adapter]
    return FinetuneSettings(
        pipeline=name.replace(" ", "-"),
        kind=kind,
        training=TrainingParams(**{**TRAINING, "max_steps": 6, "evaluation_strategy": "no"}),
        lora=LoraParams(apply_lora=True, **lora),
        max_length=32 if kind in ("sequence_classification", "seq2seq_lm", "masked_lm") else 64,
        preference={"method": method} if method else None,
        checkpoints=CheckpointParams(save_steps=3, keep_checkpoints="true", resume_from_checkpoint=resume),
        **stored,
    )


def numbers_in(file: Path) -> int:
    from safetensors.torch import load_file

    return sum(tensor.numel() for tensor in load_file(file).values())


def parameters_of(model: Path) -> int:
    """Count what transformers loads."""
    import transformers

    [architecture] = json.loads((model / "config.json").read_text())["architectures"]
    return getattr(transformers, architecture).from_pretrained(model).num_parameters()


# Each trainer and each adapter once.
ONCE = [("sft", "LoKr"), ("dpo", "QLoRA"), ("kto", "LoHa"), ("simpo", "QIA3"), ("orpo", "QLoRA"), ("classes", "DoRA"),
        ("classes of GPT-2", "IA3"), ("T5", "8 bits"), ("BART", "LoHa"), ("hidden words", "QLoRA")]  # fmt: skip


@pytest.mark.parametrize(("name", "adapter"), long_but(ONCE, PAIRS))
def test_it_trains_resumes_bit_for_bit_and_merges(name, adapter, tmp_path):
    model, data = inputs(name, tmp_path)
    unbroken, resumed = tmp_path / "unbroken", tmp_path / "resumed"
    for out, resume in ((unbroken, "false"), (resumed, "true")):
        if resume == "true":  # as if it had been killed behind its third step
            for checkpoint in (tmp_path / "root").glob("checkpoints/*/*/checkpoint-6"):
                shutil.rmtree(checkpoint)
        settings = settings_of(name, adapter, resume)
        finetune(settings, model, data, out / "tuned", out / "checkpoints", out / "report.html")
    histories = [json.loads((out / "tuned/history.json").read_text()) for out in (unbroken, resumed)]
    assert [history["resumed_from"] for history in histories] == [None, 3]
    weights = [(out / "tuned/adapter_model.safetensors").read_bytes() for out in (unbroken, resumed)]
    assert weights[0] == weights[1]
    manifest = merge_adapter(model, unbroken / "tuned", tmp_path / "merged")
    assert manifest.facts["changed_tensors"] > 0
    assert "quantization_config" not in json.loads((tmp_path / "merged/config.json").read_text())
    counted = histories[0]["parameters"]
    assert counted["trainable"] == numbers_in(unbroken / "tuned/adapter_model.safetensors")
    assert counted["total"] - counted["trainable"] == parameters_of(tmp_path / "merged")
