"""Every kind of adapter, also on a quantised base: trained as with TRL and PEFT only, merged with the same logits."""

from pathlib import Path

import pytest
from conftest import chat_rows
from training_inputs import as_imported, settings_with, train, write_tokens

from steps.params.lora import LoraParams
from steps.params.quantisation import QuantisationParams
from steps.params.settings import FinetuneSettings

pytestmark = pytest.mark.usefixtures("local_root")

MLP = ["gate_proj", "up_proj", "down_proj"]
# Our parameters → PEFT's class and its arguments, written by hand.
KINDS: dict[str, tuple[dict, str, dict]] = {
    "lora": ({}, "LoraConfig", {"r": 8, "lora_alpha": 128}),
    "dropout": ({"lora_dropout": 0.2}, "LoraConfig", {"r": 8, "lora_alpha": 128, "lora_dropout": 0.2}),
    "DoRA": ({"use_dora": True}, "LoraConfig", {"r": 8, "lora_alpha": 128, "use_dora": True}),
    "rank-stabilised": ({"use_rslora": True}, "LoraConfig", {"r": 8, "lora_alpha": 128, "use_rslora": True}),
    "orthogonal start": (
        {"init_lora_weights": "orthogonal"},
        "LoraConfig",
        {"r": 8, "lora_alpha": 128, "init_lora_weights": "orthogonal"},
    ),
    "LoRA with more settings": (
        {
            "lora_target_modules": "q_proj,v_proj,up_proj",
            "peft_kwargs": {"rank_pattern": {"q_proj": 2.0}, "alpha_pattern": {"up_proj": 9.0}, "bias": "all",
                            "layers_to_transform": [1.0]},
        },
        "LoraConfig",
        {"r": 8, "lora_alpha": 128, "target_modules": ["q_proj", "v_proj", "up_proj"], "rank_pattern": {"q_proj": 2},
         "alpha_pattern": {"up_proj": 9}, "bias": "all", "layers_to_transform": [1]},
    ),
    "IA3": ({"peft_type": "ia3"}, "IA3Config", {"feedforward_modules": ["down_proj"]}),
    "IA3 on names": (
        {"peft_type": "ia3", "lora_target_modules": "k_proj,v_proj,up_proj",
         "peft_kwargs": {"feedforward_modules": ["up_proj"]}},
        "IA3Config",
        {"target_modules": ["k_proj", "v_proj", "up_proj"], "feedforward_modules": ["up_proj"]},
    ),
    "LoHa": ({"peft_type": "loha", "lora_r": 4}, "LoHaConfig", {"r": 4, "alpha": 128}),
    "LoHa with dropout": (
        {"peft_type": "loha", "peft_kwargs": {"rank_dropout": 0.1, "module_dropout": 0.1, "exclude_modules": MLP}},
        "LoHaConfig",
        {"r": 8, "alpha": 128, "rank_dropout": 0.1, "module_dropout": 0.1, "exclude_modules": MLP},
    ),
    "LoKr": ({"peft_type": "lokr", "lora_r": 2}, "LoKrConfig", {"r": 2, "alpha": 128}),
    "LoKr, both decomposed": (
        {"peft_type": "lokr", "lora_r": 2, "peft_kwargs": {"decompose_both": True, "decompose_factor": 4.0}},
        "LoKrConfig",
        {"r": 2, "alpha": 128, "decompose_both": True, "decompose_factor": 4},
    ),
}  # fmt: skip
# The same for the base below the adapter.
BASES: dict[str, tuple[dict, dict]] = {
    "fp4": ({"load_in_4bit": True}, {"load_in_4bit": True}),
    "nf4, twice": (
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    ),
    "nf4 in bfloat16": (
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"},
    ),
    "8 bits": ({"load_in_8bit": True}, {"load_in_8bit": True}),
    "8 bits, no outliers": (
        {"load_in_8bit": True, "llm_int8_threshold": 0.0},
        {"load_in_8bit": True, "llm_int8_threshold": 0.0},
    ),
}


def bare_losses(model: Path, tokenizer, out: Path, config: str, arguments: dict, base: dict | None = None) -> list:
    """Train five steps on the same rows with nothing but TRL, PEFT and bitsandbytes, from raw conversations."""
    import peft
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    stored = {"quantization_config": BitsAndBytesConfig(**base)} if base else {}
    targets = {} if config == "PromptTuningConfig" else {"target_modules": "all-linear"}
    loaded = AutoModelForCausalLM.from_pretrained(model, **stored)
    t = settings_with({"max_steps": 5, "evaluation_strategy": "no"}).training
    trainer = SFTTrainer(
        model=loaded,
        args=SFTConfig(
            output_dir=str(out),
            max_steps=5,
            per_device_train_batch_size=t.per_device_train_batch_size,
            learning_rate=rate_of(config.lower()),
            lr_scheduler_type=t.lr_scheduler_type,
            warmup_steps=t.warmup_steps,
            weight_decay=t.weight_decay,
            optim="adamw_torch",
            logging_steps=1,
            save_strategy="no",
            max_length=64,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(chat_rows(50)[:40]),
        processing_class=tokenizer,
        peft_config=getattr(peft, config)(**{**targets, "task_type": "CAUSAL_LM", **arguments}),
    )
    if base:
        # TRL trains adapters on quantised weights in bfloat16; here they stay as PEFT made them.
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def five_steps(lora: dict, **more) -> FinetuneSettings:
    training = {"max_steps": 5, "evaluation_strategy": "no", "learning_rate": rate_of(lora.get("peft_type", "lora"))}
    return settings_with(training, lora=LoraParams(apply_lora=True, **lora), **more)


def rate_of(kind: str) -> float:
    """Factors that begin at 1 move slower than matrices that are multiplied by 16."""
    return 0.03 if kind.startswith("ia3") else 1e-3


def merged_and_adapted(model: Path, out: Path):
    """Give the logits of the merged model, of base with adapter in PEFT, and of the base, all in float32."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from steps.merge_adapter.step import merge_adapter

    merge_adapter(model, out / "tuned", out / "merged")
    ids = AutoTokenizer.from_pretrained(model)("What comes after 7?", return_tensors="pt").input_ids
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(out / "merged")(ids).logits
        loaded = AutoModelForCausalLM.from_pretrained(model)
        base = loaded(ids).logits
        return merged, PeftModel.from_pretrained(loaded, out / "tuned")(ids).logits, base


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_as_in_peft_and_merges_to_the_same_logits(kind, model, tokenizer, data, tmp_path, peer):
    ours, config, arguments = KINDS[kind]
    history = train(five_steps(ours), model, data, tmp_path / "ours")
    losses = [point["loss"] for point in history["points"]]
    theirs = peer(bare_losses, model, tokenizer, tmp_path / "bare", config, arguments)
    assert losses == pytest.approx(theirs, abs=1e-6)
    assert 0 < history["parameters"]["trainable"] < history["parameters"]["total"] / 2
    merged, adapted, base = merged_and_adapted(model, tmp_path / "ours")
    assert (merged - adapted).abs().max() < 1e-4
    assert (merged - base).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "stored"),
    [*(("lora", stored) for stored in BASES), ("DoRA", "nf4, twice"), ("IA3", "fp4"), ("IA3", "8 bits")],
)
def test_on_a_quantised_base_the_losses_are_those_of_trl_and_the_adapter_fits_the_whole_base(
    kind, stored, model, tokenizer, data, tmp_path, peer
):
    (lora, config, arguments), (ours, theirs) = KINDS[kind], BASES[stored]
    settings = five_steps(lora, quantisation=QuantisationParams(**ours))
    losses = [point["loss"] for point in train(settings, model, data, tmp_path / "ours")["points"]]
    bare = peer(bare_losses, model, tokenizer, tmp_path / "bare", config, arguments, theirs)
    assert losses == pytest.approx(bare, abs=1e-6)
    assert losses[-1] < losses[0]
    whole = train(five_steps(lora), model, data, tmp_path / "whole")
    assert losses != pytest.approx([point["loss"] for point in whole["points"]], abs=1e-6)  # it was quantised
    merged, adapted, base = merged_and_adapted(model, tmp_path / "ours")
    assert (merged - adapted).abs().max() < 1e-4
    assert (merged - base).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lora", "stored"),
    [
        ({}, {"load_in_4bit": True}),
        ({"peft_type": "ia3"}, {"load_in_8bit": True}),
        ({"peft_kwargs": {"bias": "all"}}, {}),
    ],
    ids=["4 bits", "8 bits", "biases"],
)
def test_in_sixteen_bits_too_what_is_trained_is_kept_in_float32(lora, stored, tmp_path):
    from conftest import build_model
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    build_model(tmp_path / "source", attention_bias=True, tie_word_embeddings=False)
    model = as_imported(tmp_path / "source", tmp_path / "model")
    rows = write_tokens(tmp_path / "data", AutoTokenizer.from_pretrained(model), chat_rows(50))
    training = {"max_steps": 3, "evaluation_strategy": "no", "precision": "16", "learning_rate": 1e-6}
    settings = settings_with(
        training, lora=LoraParams(apply_lora=True, **lora), quantisation=QuantisationParams(**stored)
    )
    train(settings, model, rows, tmp_path / "out")
    saved = load_file(tmp_path / "out/tuned/adapter_model.safetensors")
    # A number that bfloat16 could not hold shows that the updates, a thousandth of the weights, are not lost.
    assert all((tensor != tensor.bfloat16().float()).any() for tensor in saved.values())
    assert any(name.endswith("bias") for name in saved) == ("peft_kwargs" in lora)


@pytest.mark.slow
def test_an_evaluation_leaves_weights_of_4_bits_as_they_are_stored_on_every_cpu(tmp_path, monkeypatch):
    from bitsandbytes.nn import modules
    from conftest import build_model
    from transformers import AutoTokenizer

    monkeypatch.setattr(modules, "has_avx512bf16", lambda: True)
    build_model(tmp_path / "source", intermediate_size=88)  # no multiple of 32
    model = as_imported(tmp_path / "source", tmp_path / "model")
    rows = write_tokens(tmp_path / "data", AutoTokenizer.from_pretrained(model), chat_rows(50))
    losses = []
    for strategy in ("steps", "no"):
        training = {"max_steps": 4, "evaluation_strategy": strategy, "eval_steps": 2}
        settings = settings_with(
            training, lora=LoraParams(apply_lora=True), quantisation=QuantisationParams(load_in_4bit=True)
        )
        losses.append([point["loss"] for point in train(settings, model, rows, tmp_path / strategy)["points"]])
    assert losses[0] == losses[1]
