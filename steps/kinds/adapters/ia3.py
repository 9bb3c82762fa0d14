"""IA3: one learned factor for each output of a layer, or for each input of a feed-forward layer."""

from collections.abc import Sequence
from typing import Any

from steps.kinds.adapter_kind import NAMES, UNDERSTOOD_OF_ALL, AdapterKind, Matrix, no_positions


def _count(p: Any, hidden: int, matrices: Sequence[Matrix], layers: float) -> float:
    """Count the inputs of a layer's last matrix and the outputs of all others."""
    return layers * (sum(outputs for _, outputs in matrices[:-1]) + sum(inputs for inputs, _ in matrices[-1:]))


KIND = AdapterKind(
    name="ia3",
    peft_name="IA3",
    renamed={"lora_target_modules": "target_modules"},
    described=lambda p: "IA3",
    kwargs={"exclude_modules": NAMES, "feedforward_modules": NAMES},
    never_with={},
    layers=frozenset({"linear", "conv1d", "quantised"}),
    heads=(),
    why_heads="",
    trains_new_rows=False,
    config="peft:IA3Config",
    settings_by="steps.finetune.adapters:in_layers_of_ia3",
    positions=no_positions,
    size=_count,
    understood=UNDERSTOOD_OF_ALL | {"fan_in_fan_out", "feedforward_modules", "init_ia3_weights"},
    harmless={},
    tensors_begin="ia3_",
    tensors="ia3_l",
    folded_by="steps.adapters.kinds:IA3",
    kept_because="",
    merging="merge the adapter into the base model",
    served_by_vllm=False,
)
