"""LoRA: W + alpha / r · B @ A; DoRA: LoRA with learned magnitudes of the rows."""

from typing import Any

from steps.kinds.adapter_kind import (
    CHOOSING,
    RANKS,
    UNDERSTOOD_OF_ALL,
    AdapterKind,
    Values,
    for_every_matrix,
    no_positions,
)


def _count(p: Any, inputs: int, outputs: int) -> int:
    return p.lora_r * (inputs + outputs) + (outputs if p.use_dora else 0)


KIND = AdapterKind(
    name="lora",
    peft_name="LORA",
    renamed={"lora_r": "r", "lora_target_modules": "target_modules"},
    described=lambda p: f"{'DoRA' if p.use_dora else 'LoRA'} rank {p.lora_r}",
    kwargs={**CHOOSING, **RANKS, "bias": Values("none, all or lora_only", ("none", "all", "lora_only").__contains__)},
    never_with={},
    layers=frozenset({"linear", "conv1d", "quantised"}),
    heads=(),
    why_heads="",
    trains_new_rows=True,
    config="peft:LoraConfig",
    settings_by="steps.finetune.adapters:in_layers",
    positions=no_positions,
    size=for_every_matrix(_count),
    understood=UNDERSTOOD_OF_ALL | {
        "alpha_pattern", "bias", "corda_config", "ensure_weight_tying", "eva_config", "fan_in_fan_out",
        "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout",
        "lora_ga_config", "megatron_core", "qalora_group_size", "r", "rank_pattern", "runtime_config",
        "trainable_token_indices", "use_dora", "use_rslora",
    },
    # The others (pissa, olora, corda, loftq, …) change the base before training: the adapter does not fit the original.
    harmless={"init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal")},
    tensors_begin="lora_",
    tensors="lora_(?:embedding_)?[AB]|lora_magnitude_vector",
    folded_by="steps.adapters.low_rank:LORA",
    kept_because="",
    merging="merge the adapter into the base",
    served_by_vllm=True,
)  # fmt: skip
