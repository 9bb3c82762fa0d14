"""Which adapters vLLM can serve beside their base; from the source of vLLM 0.31.0 (vllm/lora), and tested with it.

vLLM reads a few settings and ignores all others without a warning: an adapter that needs one of the others would load
and give wrong answers. So a setting that is not listed here is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from steps.adapters.folders import ADAPTER_CONFIG, Folder
from steps.errors import Problem, shown
from steps.kinds.adapters import ADAPTER_KINDS, IN_PEFT, KEPT_KINDS

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # vLLM's choices of --max-lora-rank
USUAL_RANK = 16  # its default
# The last layers of classifiers: the only full weights that vLLM loads from an adapter.
HEADS = ("classifier", "score")
# Settings that name what is trained besides the factors: cleared, because vLLM refuses or ignores them.
CLEARED = ("modules_to_save", "trainable_token_indices")

# vLLM ignores these and scales every module by lora_alpha / r: evening.py gives all modules one rank and scale.
EVENED = {"alpha_pattern", "rank_pattern"}
# Settings that vLLM reads, and settings that only affect training.
READ = {"bias", "lora_alpha", "modules_to_save", "peft_type", "r", "target_modules", "use_dora", "use_rslora"}
HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules",
    "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config",
    "lora_dropout", "lora_ga_config", "megatron_core", "peft_version", "qalora_group_size", "revision",
    "runtime_config", "task_type", "trainable_token_indices",
}  # fmt: skip
WHY = {
    "alora_invocation_tokens": "activates the adapter in the middle of a text",
    "layer_replication": "adds layers that the base does not have",
    "lora_bias": "adds to biases",
    "target_parameters": "changes parameters that are not layers, such as experts",
    "use_bdlora": "stores its matrices as blocks",
    "use_dora": "is DoRA, which scales rows of the weights",
    "use_qalora": "pools the inputs of a quantised base",
}
# PEFT's names of the kinds that vLLM serves.
SERVED = [kind.peft_name for kind in ADAPTER_KINDS.values() if kind.served_by_vllm]
MERGE = "merge it instead (python -m steps merge-adapter), and serve the merged model with vLLM"


def vllm_problems(adapter: Folder) -> Iterator[Problem]:
    """Yield the settings of an adapter that vLLM cannot serve; its tensors are checked in `vllm.py`."""
    where, config = f"adapter ({adapter.path / ADAPTER_CONFIG})", adapter.config
    kind = config.get("peft_type")
    if kind not in SERVED:
        fix = "train another kind: this kind cannot be merged, either" if kind in KEPT_KINDS else MERGE
        yield Problem("ADAPTER-E0201", f"{where} peft_type", shown(kind),
                      f"{', '.join(SERVED)}, the only kind that vLLM serves", fix)  # fmt: skip
        return
    for name in sorted(set(config) - READ - HARMLESS - EVENED | {"use_dora"}):
        if config.get(name) not in (None, False, [], {}, ""):
            reason = WHY.get(name, "is not read by vLLM, and may change what the adapter computes")
            yield Problem("ADAPTER-E0202", f"{where} {name}", f"{shown(config[name])}: it {reason}",
                          "a LoRA adapter without it", MERGE)  # fmt: skip
    if config.get("bias", "none") != "none":
        yield Problem("ADAPTER-E0202", f"{where} bias", f"{shown(config['bias'])}: biases were trained",
                      "none", MERGE, why="vLLM loads only low-rank factors")  # fmt: skip
    for name, harmless in IN_PEFT[kind].harmless.items():
        if config.get(name) in harmless:
            continue
        yield Problem("ADAPTER-E0202", f"{where} {name}",
                      f"{shown(config.get(name))}, which changes the base weights before training",
                      "an adapter of the unchanged base",
                      "save it as plain LoRA (save_pretrained, path_initial_model_for_weight_conversion)")  # fmt: skip
    yield from _number_problems(where, config)


def rank_problems(where: str, rank: int) -> Iterator[Problem]:
    """Refuse a rank above vLLM's largest."""
    if rank > RANKS[-1]:
        yield Problem("ADAPTER-E0204", where, f"rank {rank}", f"at most {RANKS[-1]}, vLLM's largest rank", MERGE)


def max_rank(rank: int) -> int:
    """Return the smallest --max-lora-rank for an adapter of this rank."""
    return next(choice for choice in RANKS if choice >= rank)


def _number_problems(where: str, config: dict[str, Any]) -> Iterator[Problem]:
    rank, alpha, targets = config.get("r"), config.get("lora_alpha"), config.get("target_modules")
    if type(rank) is not int or rank < 1 or type(alpha) not in (int, float) or not targets:
        yield Problem("ADAPTER-E0203", where, f"r={shown(rank)}, lora_alpha={shown(alpha)}, target_modules="
                      f"{shown(targets)}", "a rank of at least 1, an alpha and target modules",
                      "save the adapter again with PEFT", why="vLLM needs all three")  # fmt: skip
