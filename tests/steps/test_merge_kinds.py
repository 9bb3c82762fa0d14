"""IA3, LoHa and LoKr: merged equal to PEFT bit for bit; and which of their settings are refused."""

import json
from pathlib import Path

import pytest
from merge_inputs import BASES, change_settings, change_tensors, differing, merged_by_peft, refused, tensors_of

from steps.adapters.folders import open_adapter, open_base
from steps.adapters.planning import plan_merge
from steps.merge_adapter.step import merge_adapter

LINEAR = {"target_modules": "all-linear"}
# PEFT cannot load an IA3 adapter again that was made with all-linear and feedforward_modules.
IA3 = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
       "feedforward_modules": ["down_proj"]}  # fmt: skip
# Kind, base, settings, type of the adapter.
CASES: dict[str, tuple[str, str, dict, str]] = {
    "IA3": ("IA3Config", "tied", IA3, "float32"),
    "IA3 with biases": ("IA3Config", "untied", IA3, "float32"),
    "IA3 in bf16": ("IA3Config", "bfloat16", IA3, "float32"),
    "IA3, all in bf16": ("IA3Config", "bfloat16", IA3, "bfloat16"),
    "IA3, sharded": ("IA3Config", "sharded", {"target_modules": ["k_proj", "v_proj", "down_proj"],
                                              "feedforward_modules": ["down_proj"]}, "float32"),
    "IA3, as PEFT's table has it": ("IA3Config", "float16", {}, "float32"),
    "IA3 on GPT-2": ("IA3Config", "gpt2", {"target_modules": ["c_attn", "c_fc", "attn.c_proj", "mlp.c_proj"],
                                           "feedforward_modules": ["mlp.c_proj"]}, "float32"),
    "IA3 on GPT-2, inputs of a square layer": (
        "IA3Config", "gpt2", {"target_modules": ["attn.c_proj"], "feedforward_modules": ["attn.c_proj"]}, "float32"),
    "IA3 on the head": ("IA3Config", "untied", {"target_modules": ["lm_head", "q_proj"],
                                                "feedforward_modules": ["lm_head"]}, "float32"),
    "IA3 and norms saved whole": ("IA3Config", "bfloat16", {**IA3, "modules_to_save": ["norm"]}, "float32"),
    "LoHa": ("LoHaConfig", "tied", {**LINEAR, "r": 4, "alpha": 7}, "float32"),
    "LoHa, untied": ("LoHaConfig", "untied", {**LINEAR, "r": 3, "alpha": 8}, "float32"),
    "LoHa in bf16": ("LoHaConfig", "bfloat16", {**LINEAR, "r": 4, "alpha": 16}, "float32"),
    "LoHa, all in bf16": ("LoHaConfig", "bfloat16", {**LINEAR, "r": 4, "alpha": 16}, "bfloat16"),
    "LoHa, sharded": ("LoHaConfig", "sharded", {"target_modules": ["q_proj", "down_proj"], "r": 4}, "float32"),
    "LoHa by pattern": (
        "LoHaConfig", "float16",
        {**LINEAR, "r": 4, "alpha": 5, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 11}}, "float32"),
    "LoKr": ("LoKrConfig", "tied", {**LINEAR, "r": 2, "alpha": 7}, "float32"),
    "LoKr in bf16": ("LoKrConfig", "bfloat16", {**LINEAR, "r": 2, "alpha": 16}, "float32"),
    "LoKr, all in bf16": ("LoKrConfig", "bfloat16", {**LINEAR, "r": 2, "alpha": 16}, "bfloat16"),
    "LoKr, both decomposed": (
        "LoKrConfig", "sharded", {**LINEAR, "r": 1, "alpha": 3, "decompose_both": True}, "float32"),
    "LoKr, nothing decomposed": ("LoKrConfig", "untied", {**LINEAR, "r": 64, "alpha": 3}, "float32"),
    "LoKr by pattern": (
        "LoKrConfig", "float16",
        {**LINEAR, "r": 4, "decompose_factor": 4, "rank_pattern": {"q_proj": 2}}, "float32"),
}  # fmt: skip


@pytest.fixture(scope="session")
def base_of(tmp_path_factory):
    """Base models by name, each built once."""
    root = tmp_path_factory.mktemp("bases-of-kinds")

    def build(name: str) -> Path:
        if not (root / name).exists():
            (root / name).mkdir()
            BASES[name](root / name)
            _with_biases(root / name)
        return root / name

    return build


def _with_biases(folder: Path) -> None:
    """Give biases values: transformers begins them with zeros, which IA3 would leave as they are."""
    import torch
    from safetensors.torch import load_file, save_file

    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        torch.manual_seed(5)
        for name in tensors:
            if name.endswith(".bias"):
                tensors[name] = torch.randn_like(tensors[name])
        save_file(tensors, file, metadata={"format": "pt"})


def make(base: Path, folder: Path, config: str, settings: dict, dtype: str = "float32", scale: float = 0.1) -> Path:
    """Save an adapter as PEFT makes it, with everything that training would have changed made random."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    described = getattr(peft, config)(task_type="CAUSAL_LM", **settings)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), described)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * scale)
    if dtype != "float32":
        model.to(getattr(torch, dtype))
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_merged_weights_are_bit_equal_to_peft(case, base_of, tmp_path):
    config, name, settings, dtype = CASES[case]
    base = base_of(name)
    adapter = make(base, tmp_path / "adapter", config, settings, dtype)
    manifest = merge_adapter(base, adapter, tmp_path / "merged")
    expected = merged_by_peft(base, adapter, tmp_path / "peft")
    assert differing(tensors_of(tmp_path / "merged"), expected) == []
    changed = differing(expected, tensors_of(base))
    assert len(changed) == manifest.facts["changed_tensors"] > 0


def test_the_plan_prints_every_change(base_of, tmp_path):
    base = base_of("untied")
    said = {}
    for config, settings in (
        ("IA3Config", {"target_modules": ["q_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
        ("LoHaConfig", {"target_modules": ["q_proj"], "r": 4, "alpha": 8}),
        ("LoKrConfig", {"target_modules": ["q_proj"], "r": 2, "alpha": 8}),
    ):
        plan = plan_merge(open_base(base), open_adapter(make(base, tmp_path / config, config, settings)))
        said[config] = str(plan)
        assert plan.merged_modules["q_proj"] == 2
    assert "layers.0.self_attn.q_proj.weight F32[64, 64] ·= rows [64, 1]" in said["IA3Config"]
    assert "layers.0.self_attn.q_proj.bias F32[64] ·= rows [64, 1]" in said["IA3Config"]
    assert "layers.0.mlp.down_proj.weight F32[64, 128] ·= columns [1, 128]" in said["IA3Config"]
    assert "+= 2 · ([64, 4] @ [4, 64]) ∘ ([64, 4] @ [4, 64])" in said["LoHaConfig"]
    assert "+= 4 · ([8, 8]) ⊗ ([8, 2] @ [2, 8])" in said["LoKrConfig"]


UNTRAINED = {"IA3Config": IA3, "LoHaConfig": LINEAR, "LoKrConfig": LINEAR}


@pytest.mark.parametrize("config", UNTRAINED)
def test_an_adapter_that_was_never_trained_is_refused(config, base_of, tmp_path):
    adapter = make(base_of("tied"), tmp_path / "adapter", config, UNTRAINED[config], scale=0.0)
    refused(base_of("tied"), adapter, "MERGE-E0301", "zeros")


@pytest.mark.parametrize(
    ("config", "setting"),
    [("IA3Config", {"bias": "all"}), ("LoHaConfig", {"use_effective_conv2d": True}), ("LoKrConfig", {"future": 1})],
)
def test_settings_that_are_not_understood_are_refused_by_name(config, setting, base_of, tmp_path):
    adapter = make(base_of("tied"), tmp_path / "adapter", config, UNTRAINED[config])
    refused(base_of("tied"), change_settings(adapter, **setting), "MERGE-E0108", next(iter(setting)))


def test_settings_of_every_ordinary_adapter_of_this_peft_are_understood():
    import peft

    from steps.adapters.settings import REFUSED
    from steps.kinds.adapters import IN_PEFT

    for config, kind in (("IA3Config", "IA3"), ("LoHaConfig", "LOHA"), ("LoKrConfig", "LOKR")):
        known = set(getattr(peft, config)(task_type="CAUSAL_LM").to_dict())
        assert known <= IN_PEFT[kind].understood | REFUSED.keys(), kind


@pytest.mark.parametrize(
    ("config", "gone"), [("LoHaConfig", "hada_w2_b"), ("LoKrConfig", "lokr_w1"), ("LoKrConfig", "lokr_w2_a")]
)
def test_an_adapter_with_a_part_missing_is_refused(config, gone, base_of, tmp_path):
    adapter = make(base_of("tied"), tmp_path / "adapter", config, {**LINEAR, "r": 2})
    change_tensors(adapter, lambda old: {key: tensor for key, tensor in old.items() if not key.endswith(gone)})
    refused(base_of("tied"), adapter, "MERGE-E0204", gone)


@pytest.mark.parametrize("config", UNTRAINED)
def test_an_adapter_of_another_shape_is_refused(config, base_of, tmp_path):
    from conftest import build_model

    build_model(tmp_path / "other", hidden_size=32)
    adapter = make(base_of("tied"), tmp_path / "adapter", config, UNTRAINED[config])
    refused(tmp_path / "other", adapter, "MERGE-E0205", "shape")


@pytest.mark.parametrize("config", ["LoHaConfig", "LoKrConfig"])
def test_a_rank_that_is_not_the_weights_is_refused(config, base_of, tmp_path):
    adapter = make(base_of("tied"), tmp_path / "adapter", config, {**LINEAR, "r": 2})
    refused(base_of("tied"), change_settings(adapter, r=3), "MERGE-E0205", "the rank 3")


def test_an_adapter_on_tied_embeddings_is_refused(base_of, tmp_path):
    adapter = make(base_of("tied"), tmp_path / "adapter", "LoHaConfig", {"target_modules": ["lm_head", "q_proj"]})
    refused(base_of("tied"), adapter, "MERGE-E0208", "lm_head")


def test_the_configuration_of_an_adapter_is_left_as_it_is(base_of, tmp_path):
    adapter = make(base_of("tied"), tmp_path / "adapter", "IA3Config", IA3)
    before = json.loads((adapter / "adapter_config.json").read_text())
    merge_adapter(base_of("tied"), adapter, tmp_path / "merged")
    assert json.loads((adapter / "adapter_config.json").read_text()) == before
