"""merge_adapter against PEFT's own merge, bit by bit, and what it writes beside the weights."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import build_tokenizer
from merge_inputs import as_artifact, build_gpt2, differing, make_adapter, merged_by_peft, tensors_of

from steps.adapters.folders import open_adapter, open_base
from steps.adapters.planning import plan_merge
from steps.artifacts import read_manifest
from steps.merge_adapter.step import merge_adapter

ROOT = Path(__file__).parents[2]

ADAPTERS = {
    "every linear layer, fp32": ("tied", {}),
    "bf16 base, fp32 adapter": ("bfloat16", {}),
    "bf16 base, bf16 adapter": ("bfloat16", {"dtype": "bfloat16"}),
    "fp16 base": ("float16", {}),
    "fp32 base, fp16 adapter": ("tied", {"dtype": "float16"}),
    "shards": ("sharded", {"target_modules": ["q_proj", "down_proj"]}),
    "rank-stabilised": ("bfloat16", {"use_rslora": True, "r": 8}),
    "target_modules as an expression": ("tied", {"target_modules": r".*layers\.1\..*(q|v)_proj"}),
    "ranks and alphas by pattern": (
        "bfloat16",
        {
            "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 8},
            "alpha_pattern": {"^model.layers.0.self_attn.k_proj": 3, "v_proj": 32},
        },
    ),
    "one layer of two": ("tied", {"target_modules": ["q_proj"], "layers_to_transform": [1]}),
    "orthogonal start": ("tied", {"init_lora_weights": "orthogonal"}),
    "both embeddings, untied": ("untied", {"target_modules": ["embed_tokens", "lm_head", "o_proj"]}),
    "both embeddings in bf16": ("bfloat16", {"target_modules": ["embed_tokens", "lm_head", "o_proj"]}),
    "norms saved whole": ("bfloat16", {"modules_to_save": ["norm", "input_layernorm"]}),
    "embeddings saved whole": ("untied", {"modules_to_save": ["embed_tokens", "lm_head"]}),
    "tied embeddings saved whole": ("tied", {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    "tied embeddings saved along": ("tied", {"save_embedding_layers": True}),
    "all biases": ("untied", {"bias": "all", "target_modules": ["q_proj"]}),
    "DoRA": ("tied", {"use_dora": True}),
    "DoRA in bf16": ("bfloat16", {"use_dora": True, "use_rslora": True}),
    "DoRA on embeddings": ("bfloat16", {"use_dora": True, "target_modules": ["embed_tokens", "q_proj"]}),
    "GPT-2": ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"]}),
    "GPT-2 with DoRA": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "use_dora": True}),
    "rows of tokens, tied": ("tied", {"trainable_token_indices": [354, 3, 17]}),
    "rows of tokens, tied, by both names": (
        "tied",
        {"trainable_token_indices": {"embed_tokens": [353, 354], "lm_head": [353, 354]}},
    ),
    "rows of tokens, untied": (
        "bfloat16",
        {"trainable_token_indices": {"model.embed_tokens": [1, 2], "lm_head": [2, 9]}},
    ),
    "rows of tokens, input only": ("untied", {"trainable_token_indices": [0, 1]}),
    "rows of tokens in shards, bf16 adapter": ("sharded", {"trainable_token_indices": [5], "dtype": "bfloat16"}),
    "rows of tokens, GPT-2": ("gpt2", {"target_modules": ["c_attn"], "trainable_token_indices": [319, 318]}),
    "GPT-2, positions": ("gpt2", {"target_modules": ["wpe", "c_proj"]}),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_merged_weights_are_bit_equal_to_peft(case, bases, tmp_path):
    name, settings = ADAPTERS[case]
    base = bases(name)
    adapter = make_adapter(base, tmp_path / "adapter", **settings)
    manifest = merge_adapter(base, adapter, tmp_path / "merged")
    expected = merged_by_peft(base, adapter, tmp_path / "peft")
    assert differing(tensors_of(tmp_path / "merged"), expected) == []
    changed = differing(expected, tensors_of(base))
    assert len(changed) == manifest.facts["changed_tensors"] > 0


def test_square_layers_of_gpt2_are_transposed_even_if_fan_in_fan_out_is_false(bases, tmp_path):
    # With lm_head-like Linear layers beside its Conv1D ones, PEFT saves fan_in_fan_out as the last layer had it.
    base = bases("gpt2")
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["c_proj"])
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "fan_in_fan_out": False}))
    merge_adapter(base, adapter, tmp_path / "merged")
    assert differing(tensors_of(tmp_path / "merged"), merged_by_peft(base, adapter, tmp_path / "peft")) == []


def test_a_base_saved_without_its_head_keeps_its_names(tmp_path):
    build_gpt2(tmp_path / "base", backbone_only=True)
    adapter = make_adapter(tmp_path / "base", tmp_path / "adapter", target_modules=["c_attn"])
    merge_adapter(tmp_path / "base", adapter, tmp_path / "merged")
    expected = merged_by_peft(tmp_path / "base", adapter, tmp_path / "peft")
    merged = tensors_of(tmp_path / "merged")
    assert "h.0.attn.c_attn.weight" in merged
    assert differing({f"transformer.{name}": tensor for name, tensor in merged.items()}, expected) == []


def test_the_merged_model_loads_and_answers_as_base_with_adapter(bases, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = bases("tied")
    adapter = make_adapter(base, tmp_path / "adapter")
    merge_adapter(base, adapter, tmp_path / "merged")
    ids = AutoTokenizer.from_pretrained(tmp_path / "merged")("What comes after 7?", return_tensors="pt").input_ids
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(ids).logits
        model = AutoModelForCausalLM.from_pretrained(base)
        plain = model(ids).logits
        tuned = PeftModel.from_pretrained(model, adapter)(ids).logits
    torch.testing.assert_close(merged, tuned, atol=1e-5, rtol=1e-5)
    assert (merged - plain).abs().max() > 1e-2


def test_shards_keep_names_headers_and_index(bases, tmp_path):
    base = bases("sharded")
    merge_adapter(base, make_adapter(base, tmp_path / "adapter"), tmp_path / "merged")
    shards = sorted(file.name for file in base.glob("*.safetensors"))
    assert len(shards) > 3
    assert sorted(file.name for file in (tmp_path / "merged").glob("*.safetensors")) == shards
    for name in ("model.safetensors.index.json", "config.json", "generation_config.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (base / name).read_bytes()
    for name in shards:
        before, after = (base / name).read_bytes(), (tmp_path / "merged" / name).read_bytes()
        header = 8 + int.from_bytes(before[:8], "little")
        assert (after[:header], len(after)) == (before[:header], len(before))


def test_the_plan_prints_every_change(bases, tmp_path):
    adapter = make_adapter(bases("tied"), tmp_path / "adapter", target_modules=["q_proj"], modules_to_save=["norm"])
    plan = plan_merge(open_base(bases("tied")), open_adapter(adapter))
    assert plan.merged_modules == {"q_proj": 2}
    lines = str(plan).splitlines()
    assert lines[0] == "model.safetensors: 7 of 20 tensors change"
    assert "  model.layers.0.self_attn.q_proj.weight F32[64, 64] += 1.75 · (B[64, 4] @ A[4, 64])" in lines
    assert "  model.norm.weight F32[64] = base_model.model.model.norm.weight" in lines


def test_neither_transformers_nor_peft_is_loaded_and_the_plan_needs_no_torch(bases, tmp_path):
    base = bases("tied")
    adapter = make_adapter(base, tmp_path / "adapter")
    script = (
        "import sys; from pathlib import Path; from steps.merge_adapter.step import merge_adapter\n"
        "from steps.adapters.planning import plan_merge; from steps.adapters.folders import *\n"
        "base, adapter, output = map(Path, sys.argv[1:])\n"
        "plan_merge(open_base(base), open_adapter(adapter)); print('torch' in sys.modules)\n"
        "merge_adapter(base, adapter, output); print({'transformers', 'peft'} & sys.modules.keys())"
    )
    words = [sys.executable, "-c", script, base, adapter, tmp_path / "merged"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False", "set()"]


def test_artifacts_keep_their_lineage_and_facts(bases, tmp_path):
    base = as_artifact(bases("tied"), tmp_path / "base", "model")
    plain = make_adapter(base, tmp_path / "plain", target_modules=["q_proj", "v_proj"])
    inputs = {"inputs": {"model": read_manifest(base).digest}}
    adapter = as_artifact(plain, tmp_path / "adapter", "adapter", inputs)
    manifest = merge_adapter(base, adapter, tmp_path / "merged")
    assert manifest == read_manifest(tmp_path / "merged", "model")
    expected = {"base": read_manifest(base).digest, "adapter": read_manifest(adapter).digest}
    assert manifest.lineage["inputs"] == expected
    assert manifest.facts == {
        "architecture": "LlamaForCausalLM",
        "tensors": 20,
        "changed_tensors": 4,
        "merged_modules": 4,
        "merged_by_name": {"q_proj": 2, "v_proj": 2},
    }
    on_disk = {name: hashlib.sha256((tmp_path / "merged" / name).read_bytes()).hexdigest() for name in manifest.files}
    assert on_disk == {name: entry["sha256"] for name, entry in manifest.files.items()}  # hashed while written


def test_a_fully_tuned_model_is_not_written_again(bases, tmp_path):
    base = as_artifact(bases("tied"), tmp_path / "base", "model")
    tuned = as_artifact(bases("tied"), tmp_path / "tuned", "model")
    manifest = merge_adapter(base, tuned, tmp_path / "merged")
    assert manifest.same_as == "tuned"
    assert [file.name for file in (tmp_path / "merged").iterdir()] == ["manifest.json"]


def test_the_adapters_tokenizer_wins(bases, tmp_path):
    base = bases("tied")
    adapter = make_adapter(base, tmp_path / "adapter")
    build_tokenizer(adapter)
    (adapter / "chat_template.jinja").write_text("of the adapter")
    (adapter / "README.md").write_text("of the adapter")
    merge_adapter(base, adapter, tmp_path / "merged")
    assert (tmp_path / "merged/chat_template.jinja").read_text() == "of the adapter"
    assert (tmp_path / "merged/tokenizer.json").read_bytes() == (adapter / "tokenizer.json").read_bytes()
    assert not (tmp_path / "merged/README.md").exists()


def test_a_template_alone_is_put_over_the_bases_tokenizer(bases, tmp_path):
    base = bases("tied")
    adapter = make_adapter(base, tmp_path / "adapter")
    (adapter / "chat_template.jinja").write_text("of the adapter")
    merge_adapter(base, adapter, tmp_path / "merged")
    assert (tmp_path / "merged/chat_template.jinja").read_text() == "of the adapter"
    assert (tmp_path / "merged/tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
