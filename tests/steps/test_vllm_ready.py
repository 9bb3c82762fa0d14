"""Adapters for vLLM: what is left out, what is refused, and that PEFT computes the same with the result."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import build_model
from safetensors.torch import load_file, save_file
from small_adapters import change_settings, change_tensors, logits_of, save_adapter

from steps.adapter_tools.vllm_ready import create_vllm_compatible_adapter
from steps.adapters.sameness import is_zero, same_values
from steps.adapters.training_hint import trained_whole
from steps.adapters.vllm_rules import max_rank
from steps.artifacts import read_manifest
from steps.errors import Outage, UserError
from steps.models.weights import stored_tensors

LM_HEAD = "base_model.model.lm_head.weight"


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    build_model(root / "untied", tie_word_embeddings=False)
    build_model(root / "tied")
    from transformers import AutoModelForCausalLM

    shutil.copytree(root / "untied", root / "bfloat16")
    AutoModelForCausalLM.from_pretrained(root / "untied", dtype=torch.bfloat16).save_pretrained(root / "bfloat16")
    return {name: root / name for name in ("untied", "tied", "bfloat16")}


SAVED_ALONG = {
    "factors alone": ("untied", {}),
    "rank-stabilised": ("untied", {"use_rslora": True, "layers_to_transform": [1], "target_modules": ["q_proj"]}),
    "embeddings saved along": ("tied", {"save_embedding_layers": True}),
    "both embeddings saved along, untied": ("untied", {"save_embedding_layers": True}),
    "modules_to_save": ("untied", {"modules_to_save": ["lm_head", "embed_tokens"]}),
    "modules_to_save in float32 beside a bfloat16 base": ("bfloat16", {"modules_to_save": ["lm_head"]}),
    "LoRA on an embedding, whose base layer is saved": ("untied", {"target_modules": ["embed_tokens", "q_proj"]}),
    "trainable tokens": ("untied", {"trainable_token_indices": [7, 5]}),
    "trainable tokens of both embeddings": (
        "untied", {"trainable_token_indices": {"embed_tokens": [7, 5], "lm_head": [3]}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SAVED_ALONG)
def test_only_factors_are_left_and_peft_computes_the_same(bases, tmp_path, case):
    name, settings = SAVED_ALONG[case]
    adapter = save_adapter(bases[name], tmp_path / "adapter", **settings)
    before = {file.name: file.read_bytes() for file in adapter.iterdir()}
    manifest = create_vllm_compatible_adapter(adapter, tmp_path / "ready", bases[name])
    kept = load_file(tmp_path / "ready/adapter_model.safetensors")
    original = load_file(adapter / "adapter_model.safetensors")
    assert kept.keys() == {key for key in original if ".lora_" in key}
    assert all(torch.equal(kept[key], original[key]) for key in kept)
    assert manifest.facts["left_out"] == sorted(original.keys() - kept.keys())
    config = json.loads((tmp_path / "ready/adapter_config.json").read_text())
    assert not config["modules_to_save"]
    assert not config["trainable_token_indices"]
    assert torch.equal(logits_of(bases[name], tmp_path / "ready"), logits_of(bases[name], adapter))
    assert {file.name: file.read_bytes() for file in adapter.iterdir()} == before
    assert read_manifest(tmp_path / "ready").digest == manifest.digest


def test_the_second_run_finds_its_work_done(bases, tmp_path, caplog):
    adapter = save_adapter(bases["untied"], tmp_path / "adapter", modules_to_save=["lm_head"])
    caplog.set_level("INFO", "finetune")
    first = create_vllm_compatible_adapter(adapter, tmp_path / "ready", bases["untied"])
    written = (tmp_path / "ready/manifest.json").stat().st_mtime_ns
    assert create_vllm_compatible_adapter(adapter, tmp_path / "ready", bases["untied"]) == first
    assert (tmp_path / "ready/manifest.json").stat().st_mtime_ns == written
    assert "nothing to do" in caplog.text
    # What was made ready is ready: no base is needed, and the bytes stay.
    again = create_vllm_compatible_adapter(tmp_path / "ready", tmp_path / "again")
    assert again.facts["already_compatible"] is True
    assert again.digest == first.digest
    assert "already compatible with vLLM" in caplog.text


def test_an_output_of_another_adapter_is_written_anew(bases, tmp_path):
    for r in (2, 4):
        adapter = save_adapter(bases["untied"], tmp_path / f"of rank {r}", r=r)
        create_vllm_compatible_adapter(adapter, tmp_path / "ready")
    kept = load_file(tmp_path / "ready/adapter_model.safetensors")
    assert {min(tensor.shape) for tensor in kept.values()} == {4}


def refused(adapter: Path, base: Path | None, code: str, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        create_vllm_compatible_adapter(adapter, adapter.parent / "ready", base)
    assert code in {problem.code for problem in caught.value.problems}, str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert not list(adapter.parent.glob("ready*"))


CHANGED = {
    "a trained head": {"modules_to_save": ["lm_head"]},
    "trained embeddings": {"modules_to_save": ["embed_tokens"]},
    "trained tokens": {"trainable_token_indices": [5]},
}


@pytest.mark.parametrize("case", CHANGED)
def test_what_was_trained_is_not_left_out(bases, tmp_path, case):
    adapter = save_adapter(bases["untied"], tmp_path / "adapter", whole=1e-3, **CHANGED[case])
    refused(adapter, bases["untied"], "ADAPTER-E0208", "changed by the training", "merge it instead")


def test_one_changed_value_is_found(bases, tmp_path):
    def change(tensors: dict) -> dict:
        tensors[LM_HEAD][-1, -1] += 1e-3
        return tensors

    adapter = save_adapter(bases["untied"], tmp_path / "adapter", modules_to_save=["lm_head"])
    create_vllm_compatible_adapter(adapter, tmp_path / "before", bases["untied"])
    refused(change_tensors(adapter, change), bases["untied"], "ADAPTER-E0208", LM_HEAD)


def test_a_grown_vocabulary_is_not_left_out(bases, tmp_path):
    def grow(tensors: dict) -> dict:
        return {**tensors, LM_HEAD: torch.cat([tensors[LM_HEAD], tensors[LM_HEAD][:3]])}

    adapter = save_adapter(bases["untied"], tmp_path / "adapter", modules_to_save=["lm_head"])
    rows = len(load_file(bases["untied"] / "model.safetensors")["lm_head.weight"])
    refused(change_tensors(adapter, grow), bases["untied"], "ADAPTER-E0208", f"[{rows + 3}, 64]", f"[{rows}, 64]")


def test_tensors_that_differ_from_another_base_are_refused(bases, tmp_path):
    adapter = save_adapter(bases["untied"], tmp_path / "adapter", modules_to_save=["lm_head"])
    other = tmp_path / "other"
    shutil.copytree(bases["untied"], other)
    tensors = load_file(other / "model.safetensors")
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, other / "model.safetensors", {"format": "pt"})
    refused(adapter, other, "ADAPTER-E0208")


def test_nothing_is_left_out_without_a_base_to_compare(bases, tmp_path):
    adapter = save_adapter(bases["untied"], tmp_path / "adapter", modules_to_save=["lm_head"])
    refused(adapter, None, "ADAPTER-E0207", "--base")


UNSERVED = {
    "DoRA": ({"use_dora": True}, "ADAPTER-E0202", "DoRA"),
    "IA3": ({"peft_type": "IA3"}, "ADAPTER-E0201", "IA3"),
    "LoHa": ({"peft_type": "LOHA"}, "ADAPTER-E0201", "LOHA"),
    "prompt tuning": ({"peft_type": "PROMPT_TUNING"}, "ADAPTER-E0201", "PROMPT_TUNING"),
    "biases": ({"bias": "lora_only"}, "ADAPTER-E0202", "biases"),
    "biases of the factors": ({"lora_bias": True}, "ADAPTER-E0202", "lora_bias"),
    "a rank for one module that vLLM has no room for": ({"rank_pattern": {"q_proj": 600}}, "ADAPTER-E0204", "512"),
    "a pattern that is none": ({"alpha_pattern": {"(": 3}}, "MERGE-E0106", "adapter_config.json"),
    "a changed base": ({"init_lora_weights": "pissa"}, "ADAPTER-E0202", "changes the base"),
    "a setting of a later PEFT": ({"use_something_new": 3}, "ADAPTER-E0202", "not read by vLLM"),
    "a rank that vLLM has no room for": ({"r": 600}, "ADAPTER-E0204", "512"),
    "no rank": ({"r": None}, "ADAPTER-E0203", "r=None"),
}


@pytest.mark.parametrize("case", UNSERVED)
def test_adapters_that_vllm_would_apply_wrongly_are_refused(bases, tmp_path, case):
    changes, code, words = UNSERVED[case]
    adapter = change_settings(save_adapter(bases["untied"], tmp_path / "adapter", target_modules=["q_proj"]), **changes)
    refused(adapter, bases["untied"], code, words)


PATTERNS = {
    "scales": {"alpha_pattern": {"q_proj": 3, "layers.1.*": 5}},
    "ranks, smaller and larger": {"rank_pattern": {"q_proj": 2, "v_proj": 9}},
    "both, rank-stabilised": {"rank_pattern": {"up_proj": 7}, "alpha_pattern": {"up_proj": 1}, "use_rslora": True},
    "an embedding": {"target_modules": ["embed_tokens", "q_proj"], "rank_pattern": {"embed_tokens": 6}},
}


@pytest.mark.parametrize("case", PATTERNS)
def test_ranks_and_scales_of_their_own_become_one_and_peft_computes_the_same(bases, tmp_path, case):
    adapter = save_adapter(bases["untied"], tmp_path / "adapter", **PATTERNS[case])
    manifest = create_vllm_compatible_adapter(adapter, tmp_path / "ready", bases["untied"])
    config = json.loads((tmp_path / "ready/adapter_config.json").read_text())
    assert not config["rank_pattern"]
    assert not config["alpha_pattern"]
    assert manifest.facts["evened"] is True
    factors = load_file(tmp_path / "ready/adapter_model.safetensors")
    assert {tensor.shape[0 if "_A" in name else 1] for name, tensor in factors.items()} == {config["r"]}
    expected, plain = logits_of(bases["untied"], adapter), logits_of(bases["untied"], tmp_path / "ready")
    assert torch.allclose(plain, expected, atol=1e-5)
    # Without the scales it would be another model: the comparison above can fail.
    change_settings(adapter, alpha_pattern={})
    if "alpha_pattern" in PATTERNS[case]:
        assert not torch.allclose(plain, logits_of(bases["untied"], adapter), atol=1e-3)
    again = create_vllm_compatible_adapter(tmp_path / "ready", tmp_path / "again")
    assert again.facts["already_compatible"] is True


def test_evened_factors_are_rounded_as_torch_rounds(bases, tmp_path):
    def halve(tensors: dict) -> dict:
        return {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}

    settings = {"target_modules": ["q_proj", "v_proj"], "alpha_pattern": {"q_proj": 3}}
    adapter = change_tensors(save_adapter(bases["untied"], tmp_path / "adapter", **settings), halve)
    create_vllm_compatible_adapter(adapter, tmp_path / "ready")
    before, after = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapter", "ready"))
    for name, tensor in after.items():
        scale = 3 / 8 if "q_proj.lora_B" in name else 1
        assert torch.equal(tensor, (before[name].float() * scale).to(torch.bfloat16)), name


def test_a_large_rank_names_the_flag(bases, tmp_path, caplog):
    caplog.set_level("INFO", "finetune")
    adapter = save_adapter(bases["untied"], tmp_path / "adapter", target_modules=["q_proj"], r=20)
    assert create_vllm_compatible_adapter(adapter, tmp_path / "ready").facts["max_lora_rank"] == 32
    assert "--max-lora-rank 32" in caplog.text
    assert [max_rank(rank) for rank in (1, 2, 8, 9, 300, 512)] == [1, 8, 8, 16, 320, 512]


def test_files_beside_the_weights_are_kept(bases, tmp_path):
    adapter = save_adapter(bases["untied"], tmp_path / "adapter", target_modules=["q_proj"])
    shutil.copyfile(bases["untied"] / "tokenizer.json", adapter / "tokenizer.json")
    create_vllm_compatible_adapter(adapter, tmp_path / "ready")
    assert (tmp_path / "ready/tokenizer.json").read_bytes() == (adapter / "tokenizer.json").read_bytes()


def test_the_given_adapter_is_never_the_output(bases, tmp_path):
    adapter = save_adapter(bases["untied"], tmp_path / "adapter", target_modules=["q_proj"])
    for output in (adapter, tmp_path):
        with pytest.raises(UserError, match="MERGE-E0105"):
            create_vllm_compatible_adapter(adapter, output)


def test_a_cut_artifact_is_an_outage(bases, tmp_path):
    adapter = save_adapter(bases["untied"], tmp_path / "adapter", target_modules=["q_proj"])
    create_vllm_compatible_adapter(adapter, tmp_path / "ready")
    with open(tmp_path / "ready/adapter_model.safetensors", "r+b") as stream:
        stream.truncate(100)
    with pytest.raises(Outage, match="100 bytes"):
        create_vllm_compatible_adapter(tmp_path / "ready", tmp_path / "again")


HINTS = {
    "peft_conf:\n  peft_type: LORA\n  peft_kwargs:\n    modules_to_save: [lm_head]\n": ["modules_to_save"],
    "peft_conf: {peft_type: NO_PEFT}": ["every weight"],
    '{"trainer": "sft", "lora": {"apply_lora": false}}': ["every weight"],
    "pipeline: chat_completion\napply_lora: true\n": [],
}


@pytest.mark.parametrize("text", HINTS)
def test_a_training_configuration_is_read(text):
    assert trained_whole("config.yaml", text.encode()) == HINTS[text]


@pytest.mark.parametrize("text", ["- 1", "a: [", "a: &x [1]\nb: *x", "x" * (1 << 20 | 1)], ids=range(4))
def test_a_training_configuration_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="ADAPTER-E0210"):
        trained_whole("config.yaml", text.encode())


def test_the_hint_does_not_decide(bases, tmp_path, caplog):
    caplog.set_level("INFO", "finetune")
    hint = tmp_path / "config.yaml"
    hint.write_text("peft_conf: {peft_kwargs: {modules_to_save: [lm_head]}}")
    adapter = save_adapter(bases["untied"], tmp_path / "adapter", modules_to_save=["lm_head"])
    create_vllm_compatible_adapter(adapter, tmp_path / "ready", bases["untied"], hint)
    assert "names modules_to_save; no weight left out differs from the base" in caplog.text
    hint.write_text("peft_conf: {peft_type: LORA}")
    trained = save_adapter(bases["untied"], tmp_path / "x/adapter", whole=0.1, modules_to_save=["lm_head"])
    with pytest.raises(UserError, match="ADAPTER-E0208"):
        create_vllm_compatible_adapter(trained, tmp_path / "x/ready", bases["untied"], hint)


@pytest.mark.parametrize("original", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("copy", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_copies_are_compared_by_value_after_rounding_to_their_type(tmp_path, original, copy):
    values = (
        torch.randn(300, 17, generator=torch.Generator().manual_seed(0)) * 10 ** torch.linspace(-6, 3, 300)[:, None]
    )
    base = values.to(original)
    other = base.to(copy).clone()
    changed = other.clone()
    changed[299, 16] *= 1.5
    save_file({"base": base, "copy": other, "changed": changed, "rows": other[[5, 2]].clone()}, tmp_path / "t")
    stored = stored_tensors(tmp_path / "t")
    assert same_values(stored["copy"], stored["base"])
    assert not same_values(stored["changed"], stored["base"])
    assert same_values(stored["rows"], stored["base"], [5, 2])
    assert not same_values(stored["rows"], stored["base"], [2, 5])
    assert not same_values(stored["rows"], stored["base"], [5, 400])


def test_a_tensor_of_zeros_is_recognised(tmp_path):
    save_file({"zero": torch.zeros(50, 3), "one": torch.eye(50)[:, :3].contiguous()}, tmp_path / "t")
    stored = stored_tensors(tmp_path / "t")
    assert is_zero(stored["zero"])
    assert not is_zero(stored["one"])


def test_lineage_keeps_the_base_that_the_adapter_was_trained_on(bases, tmp_path):
    from steps.artifacts import new_artifact

    given = save_adapter(bases["untied"], tmp_path / "given", target_modules=["q_proj"])
    with new_artifact(tmp_path / "adapter", "adapter", {"inputs": {"model": "a" * 64}}) as draft:
        for file in given.iterdir():
            shutil.copyfile(file, draft / file.name)
    create_vllm_compatible_adapter(tmp_path / "adapter", tmp_path / "ready")
    inputs = read_manifest(tmp_path / "ready", "adapter").lineage["inputs"]
    assert inputs == {"adapter": read_manifest(tmp_path / "adapter").digest, "model": "a" * 64}
