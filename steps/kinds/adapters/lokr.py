"""LoKr: W + alpha / r · (W1 ⊗ W2), the Kronecker product of two factors, each a full matrix or a low-rank product."""

from typing import Any

from steps.kinds.adapter_kind import YES_OR_NO, AdapterKind, Values, for_every_matrix, is_whole, no_positions
from steps.kinds.adapters import loha


def _count(p: Any, inputs: int, outputs: int) -> float:
    """Estimate the parameters for one matrix: PEFT factors each dimension near its square root."""
    return (inputs * outputs) ** 0.5 + p.lora_r * (inputs**0.5 + outputs**0.5)


KIND = AdapterKind(
    name="lokr",
    peft_name="LOKR",
    renamed={"lora_r": "r", "lora_alpha": "alpha", "lora_target_modules": "target_modules"},
    described=lambda p: f"LoKr rank {p.lora_r}",
    kwargs={
        **loha.KIND.kwargs,
        "decompose_both": YES_OR_NO,
        "decompose_factor": Values("-1, or a whole number above 0", lambda v: is_whole(v) and (v == -1 or v > 0)),
        "rank_dropout_scale": YES_OR_NO,
    },
    never_with={},
    layers=frozenset({"linear"}),
    heads=(),
    why_heads="",
    trains_new_rows=False,
    config="peft:LoKrConfig",
    settings_by="steps.finetune.adapters:in_layers",
    positions=no_positions,
    size=for_every_matrix(_count),
    understood=loha.KIND.understood | {"decompose_both", "decompose_factor", "rank_dropout_scale"},
    harmless={},
    tensors_begin="lokr_",
    tensors="lokr_w[12](?:_[ab])?",
    folded_by="steps.adapters.kinds:LOKR",
    kept_because="",
    merging="merge the adapter into the base",
    served_by_vllm=False,
)
