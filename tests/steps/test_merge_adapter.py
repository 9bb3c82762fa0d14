"""merge_adapter equals PEFT's merge bit for bit; what it refuses, and what it leaves after a failure."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import build_model, build_tokenizer

from steps.adapters.folders import open_adapter, open_base
from steps.adapters.planning import plan_merge
from steps.artifacts import new_artifact, read_manifest
from steps.errors import NumericError, Outage, UserError
from steps.merge_adapter.step import merge_adapter

ROOT = Path(__file__).parents[2]


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
def bases(tmp_path_factory) -> Callable[[str], Path]:
    """Base models by name, each built once."""
    root = tmp_path_factory.mktemp("bases")

    def build(name: str) -> Path:
        if not (root / name).exists():
            (root / name).mkdir()
            BASES[name](root / name)
        return root / name

    return build


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


def run_step(base: Path, adapter: Path, output: Path) -> subprocess.Popen:
    folders = ["--base", base, "--adapter", adapter, "--output", output]
    return subprocess.Popen(
        [sys.executable, "-m", "steps", "merge-adapter", *folders],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


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


def as_artifact(source: Path, path: Path, kind: str, lineage: dict | None = None) -> Path:
    with new_artifact(path, kind, lineage) as draft:
        shutil.copytree(source, draft.path, dirs_exist_ok=True)
        draft.facts = {"architecture": "LlamaForCausalLM", "left_out": ["x"]} if kind == "model" else {}
    return path


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
    from steps.artifacts import verified

    assert verified(tmp_path / "merged").digest == manifest.digest  # hashed while written, and again from disk


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


@pytest.mark.parametrize("kind", ["ADALORA", "P_TUNING", "PREFIX_TUNING", "OFT", "VERA", "SOMETHING_NEW"])
def test_other_kinds_of_adapter_are_refused_by_name(kind, good):
    refused(good[0], change_settings(good[1], peft_type=kind), "MERGE-E0107", kind)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("lora_bias", True),
        ("layer_replication", [[0, 1], [0, 2]]),
        ("megatron_config", {"a": 1}),
        ("target_parameters", ["mlp.experts.gate_up_proj"]),
        ("alora_invocation_tokens", [1]),
        ("arrow_config", {"top_k": 1}),
        ("kasa_config", {"beta": 1}),
        ("use_bdlora", {"nblocks": 2}),
        ("use_qalora", True),
        ("setting_of_the_future", "on"),
    ],
)
def test_settings_that_change_what_an_adapter_computes_are_refused_by_name(setting, value, good):
    refused(good[0], change_settings(good[1], **{setting: value}), "MERGE-E0108", setting)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "loftq", "corda", "lora_ga", "mica"])
def test_adapters_that_changed_their_base_first_are_refused(start, good):
    refused(good[0], change_settings(good[1], init_lora_weights=start), "MERGE-E0109", start)


def test_settings_of_every_ordinary_adapter_of_this_peft_are_understood(bases, tmp_path):
    from peft import LoraConfig

    from steps.adapters.settings import REFUSED
    from steps.kinds.adapters import ADAPTER_KINDS

    assert set(LoraConfig(task_type="CAUSAL_LM").to_dict()) <= ADAPTER_KINDS["lora"].understood | REFUSED.keys()


def test_all_refusals_are_told_at_once(good):
    text = refused(good[0], change_settings(good[1], lora_bias=True, init_lora_weights="pissa"), "MERGE-E0108")
    assert "MERGE-E0109" in text


def test_lora_on_tied_embeddings_is_refused(bases, tmp_path):
    # PEFT merges it into both ends of the model: the logits of its merged model are far from the tuned one's.
    adapter = make_adapter(bases("tied"), tmp_path / "adapter", target_modules=["embed_tokens", "q_proj"])
    refused(bases("tied"), adapter, "MERGE-E0208", "model.embed_tokens")


def test_untying_embeddings_is_refused(bases, tmp_path):
    adapter = make_adapter(bases("tied"), tmp_path / "adapter", modules_to_save=["lm_head"])
    refused(bases("tied"), adapter, "MERGE-E0208", "ensure_weight_tying")


def test_an_adapter_of_another_base_is_refused_by_digest(good, tmp_path):
    base = as_artifact(good[0], tmp_path / "base", "model")
    adapter = as_artifact(good[1], tmp_path / "of-another", "adapter", {"inputs": {"model": "0" * 64}})
    refused(base, adapter, "MERGE-E0201", "0" * 12)


def test_an_adapter_of_another_shape_is_refused(good, tmp_path):
    build_model(tmp_path / "other", hidden_size=32)
    refused(tmp_path / "other", good[1], "MERGE-E0205", "shape")


def test_an_adapter_of_another_architecture_is_refused(good, bases):
    refused(bases("gpt2"), good[1], "MERGE-E0203", "model.layers.0.self_attn.q_proj, which the base does not have")


def test_a_resized_vocabulary_is_refused(bases, tmp_path):
    adapter = make_adapter(bases("untied"), tmp_path / "adapter", modules_to_save=["embed_tokens", "lm_head"])
    build_model(tmp_path / "larger", tie_word_embeddings=False, attention_bias=True, vocab_size=400)
    refused(tmp_path / "larger", adapter, "MERGE-E0205", "vocabulary")


def test_an_adapter_with_names_that_peft_would_pass_over_is_refused(good):
    # PEFT warns and merges nothing: the merged model would be the base.
    doubled = {"base_model.model.": "base_model.model.base_model.model."}
    change_tensors(good[1], lambda old: {k.replace(*next(iter(doubled.items()))): v for k, v in old.items()})
    refused(good[0], good[1], "MERGE-E0203", "(4 like this)")


def test_weights_with_an_adapter_name_in_them_are_refused(good):
    change_tensors(good[1], lambda old: {k.replace(".weight", ".default.weight"): v for k, v in old.items()})
    refused(good[0], good[1], "MERGE-E0202", ".default.weight")


def test_weights_that_target_modules_does_not_name_are_refused(good):
    refused(good[0], change_settings(good[1], target_modules=["q_proj"]), "MERGE-E0206", "v_proj")


def test_a_missing_factor_is_refused(good):
    change_tensors(good[1], lambda old: dict(list(old.items())[1:]))
    refused(good[0], good[1], "MERGE-E0204", "lora_B")


def test_a_rank_that_is_not_the_weights_is_refused(good):
    refused(good[0], change_settings(good[1], r=8), "MERGE-E0205", "the rank 8")


@pytest.mark.parametrize("settings", [{"r": None}, {"lora_alpha": "big"}, {"rank_pattern": {"(": 3}}, {"r": 0}])
def test_broken_settings_are_refused(settings, good):
    refused(good[0], change_settings(good[1], **settings), "MERGE-E0106", "adapter_config.json")


def test_settings_that_are_no_json_are_refused(good):
    (good[1] / "adapter_config.json").write_text("{")
    refused(*good, "MERGE-E0106", "adapter_config.json")


def test_a_quantised_base_is_refused(good, tmp_path):
    shutil.copytree(good[0], tmp_path / "base")
    config = json.loads((tmp_path / "base/config.json").read_text())
    (tmp_path / "base/config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    refused(tmp_path / "base", good[1], "MERGE-E0110")


def test_a_cut_file_is_refused(good):
    weights = good[1] / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    refused(*good, "MERGE-E0103", "adapter_model.safetensors")


def test_a_missing_shard_is_refused(bases, tmp_path):
    adapter = make_adapter(bases("sharded"), tmp_path / "adapter")
    shutil.copytree(bases("sharded"), tmp_path / "base")
    gone = sorted((tmp_path / "base").glob("*.safetensors"))[1]
    gone.unlink()
    refused(tmp_path / "base", adapter, "MERGE-E0104", gone.name)


def test_changed_bytes_of_an_artifact_are_noticed(good, tmp_path):
    base = as_artifact(good[0], tmp_path / "base", "model")
    weights = base / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    refused(base, good[1], "ARTIFACT-E0101", "model.safetensors", Outage)


def test_folders_without_model_or_adapter_are_refused(good, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "gone", good[1], "MERGE-E0101", "no such folder")
    refused(tmp_path / "empty", good[1], "MERGE-E0101", "no config.json")
    refused(good[0], tmp_path / "empty", "MERGE-E0102", "no adapter_config.json and no adapter_model.safetensors")
    (good[1] / "adapter_model.safetensors").rename(good[1] / "adapter_model.bin")
    refused(*good, "MERGE-E0102", "convert adapter_model.bin")


@pytest.mark.parametrize("place", ["base", "adapter", "."])
def test_output_never_replaces_an_input(place, good, tmp_path):
    shutil.copytree(good[0], tmp_path / "base")
    with pytest.raises(UserError, match="MERGE-E0105"):
        merge_adapter(tmp_path / "base", good[1], tmp_path / place)
    assert (tmp_path / "base/model.safetensors").exists()


def test_an_adapter_that_was_never_trained_is_refused(bases, tmp_path):
    refused(bases("tied"), make_adapter(bases("tied"), tmp_path / "adapter", scale=0.0), "MERGE-E0301", "zeros")


def test_a_change_that_is_lost_by_rounding_is_noticed(bases, tmp_path):
    adapter = make_adapter(bases("bfloat16"), tmp_path / "adapter")
    change_tensors(adapter, lambda old: {k: v * (1e-9 if "lora_B" in k else 1) for k, v in old.items()})
    refused(bases("bfloat16"), adapter, "MERGE-E0302", "BF16", NumericError)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30])
def test_values_that_are_not_finite_stop_the_merge(value, bases, tmp_path):
    adapter = make_adapter(bases("float16"), tmp_path / "adapter")

    def poison(old: dict) -> dict:
        old["base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"][3, 1] = value
        return old

    refused(bases("float16"), change_tensors(adapter, poison), "MERGE-E0303", "layers.1.mlp.down_proj", NumericError)


def write_hollow_model(folder: Path, tensors: int) -> Path:
    """Write a bf16 model of zeros, 8 MB for each tensor, as sparse files; and an adapter for all of it."""
    import torch
    from safetensors.torch import save_file

    base, adapter = folder / "base", folder / "adapter"
    base.mkdir(parents=True)
    adapter.mkdir()
    names = [f"model.layers.{number}.q_proj" for number in range(tensors)]
    size = 2 * 2048 * 2048
    header = {
        f"{name}.weight": {"dtype": "BF16", "shape": [2048, 2048], "data_offsets": [index * size, (index + 1) * size]}
        for index, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    with open(base / "model.safetensors", "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + tensors * size)
    (base / "config.json").write_text('{"model_type": "hollow", "tie_word_embeddings": false}')
    factors = {"A": torch.randn(4, 2048), "B": torch.randn(2048, 4)}
    weights = {f"base_model.model.{name}.lora_{side}.weight": factors[side].clone() for name in names for side in "AB"}
    save_file(weights, adapter / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.slow
def test_killed_midway_nothing_is_visible_and_the_next_try_cleans_up(tmp_path):
    folder = write_hollow_model(tmp_path, tensors=40)
    folders = (folder / "base", folder / "adapter", folder / "merged")
    process = run_step(*folders)
    while not [part for part in folder.glob("merged.tmp-*/model.safetensors") if part.stat().st_size]:
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "merged").exists()
    again = run_step(*folders)
    output, complaints = again.communicate()
    assert again.returncode == 0, complaints
    assert "shard 1/1 model.safetensors: 40 of 40 tensors merged" in output
    assert sorted(path.name for path in folder.iterdir()) == ["adapter", "base", "merged"]
    assert read_manifest(folder / "merged").facts["changed_tensors"] == 40


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path):
    peaks = []
    for tensors in (8, 96):  # 64 MB and 768 MB
        folder = write_hollow_model(tmp_path / str(tensors), tensors)
        process = run_step(folder / "base", folder / "adapter", folder / "merged")
        assert process.stderr
        complaints = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, complaints
        peaks.append(usage.ru_maxrss / 1024)
        shutil.rmtree(folder)
    assert peaks[1] - peaks[0] < 40  # MiB; the model grew by 704


def test_rows_of_an_embedding_with_another_change_are_refused(bases, tmp_path):
    base = bases("untied")
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["embed_tokens"], save_embedding_layers=False)
    other = make_adapter(base, tmp_path / "other", trainable_token_indices=[1, 2])
    _join(adapter, other, tmp_path / "both")
    refused(base, change_settings(tmp_path / "both", trainable_token_indices=[1, 2]), "MERGE-E0209", "embed_tokens")


def test_rows_that_the_settings_do_not_name_are_refused(bases, tmp_path):
    base = bases("untied")
    adapter = make_adapter(base, tmp_path / "adapter", trainable_token_indices=[1, 2])
    refused(base, change_settings(adapter, trainable_token_indices=[1]), "MERGE-E0205", "trainable_tokens_delta")
    refused(base, change_settings(adapter, trainable_token_indices=[1, 100_000]), "MERGE-E0205", "2 of the 355 rows")


def _join(one: Path, other: Path, target: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(one, target)
    name = "adapter_model.safetensors"
    rows = {key: tensor for key, tensor in load_file(other / name).items() if "trainable_tokens" in key}
    save_file(load_file(one / name) | rows, target / name)
