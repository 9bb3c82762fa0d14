"""LoHa: W + alpha / r · (A1 @ B1) ∘ (A2 @ B2), the elementwise product of two low-rank products."""

from steps.kinds.adapter_kind import (
    CHOOSING,
    DROPOUT,
    RANKS,
    UNDERSTOOD_OF_ALL,
    AdapterKind,
    for_every_matrix,
    no_positions,
)

KIND = AdapterKind(
    name="loha",
    peft_name="LOHA",
    renamed={"lora_r": "r", "lora_alpha": "alpha", "lora_target_modules": "target_modules"},
    described=lambda p: f"LoHa rank {p.lora_r}",
    kwargs={**CHOOSING, **RANKS, "rank_dropout": DROPOUT, "module_dropout": DROPOUT},
    never_with={},
    layers=frozenset({"linear"}),
    heads=(),
    why_heads="",
    trains_new_rows=False,
    config="peft:LoHaConfig",
    settings_by="steps.finetune.adapters:in_layers",
    positions=no_positions,
    size=for_every_matrix(lambda p, inputs, outputs: 2 * p.lora_r * (inputs + outputs)),
    understood=UNDERSTOOD_OF_ALL | {
        "alpha", "alpha_pattern", "init_weights", "layers_pattern", "layers_to_transform", "module_dropout", "r",
        "rank_dropout", "rank_pattern",
    },
    harmless={},
    tensors_begin="hada_",
    tensors="hada_w[12]_[ab]",
    folded_by="steps.adapters.kinds:LOHA",
    kept_because="",
    merging="merge the adapter into the base",
    served_by_vllm=False,
)  # fmt: skip
