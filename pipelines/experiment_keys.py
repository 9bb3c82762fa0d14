"""Tables of the keys of an experiment file: the parameter of each key, and the keys without effect.

To accept another key, add a row to DIRECT, IGNORED or FIXED, or a function to `experiment_yaml.py` if its value has to
be converted. docs/experiments.md is generated from these tables.
"""

from __future__ import annotations

from typing import Any

from steps.params.adapter_kinds import peft_names
from steps.params.group import old_names
from steps.params.lora import LoraParams
from steps.params.pipelines import PARAMETER_MODELS
from steps.params.splits import train_percent

SECTIONS = (
    "method", "data_conf", "training_args", "overrides", "batchsize_conf", "peft_conf", "run_conf", "tracking",
    "quant_conf", "sft_args", "model_conf",
)  # fmt: skip
PIPELINES = {"sft": "chat_completion", "dpo": "preference"}
# A file with this section is a configuration of `generate`, and has no method.
GENERATES, INFERENCE = "model_conf", "batch_inference"
SETTINGS = "hf_gen_params"  # its section with transformers' generation settings, also a parameter of ours
RATIO = (100 - train_percent(())) / 100  # share of the training rows that AUTO_SPLIT holds out, the same as here


def _as_here(*names: str) -> dict[str, str]:
    """Map each parameter's name and its other names to the parameter."""
    models = [PARAMETER_MODELS[name] for name in (*PIPELINES.values(), INFERENCE)]
    old = {old: name for model in models for old, name in old_names(model).items()}
    return {key: name for name in names for key in (name, *(other for other in old if old[other] == name))}


# Section → key → parameter.
DIRECT: dict[str, dict[str, str]] = {
    "data_conf": {"chat_template_name": "chat_template", **_as_here("missing_pad_token_strategy")},
    "training_args": _as_here(
        "learning_rate", "num_train_epochs", "max_steps", "lr_scheduler_type", "warmup_ratio", "warmup_steps",
        "weight_decay", "max_grad_norm", "optim", "seed", "logging_steps", "logging_strategy", "eval_steps",
        "save_steps", "save_total_limit", "neftune_noise_alpha", "metric_for_best_model", "packing", "beta",
        "loss_type", "label_smoothing", "max_prompt_length", "auto_find_batch_size", "evaluation_strategy",
        "max_seq_length",
    ),
    "overrides": _as_here("lr_multiplier", "lr_batch_size_scaling"),
    "batchsize_conf": _as_here(
        "total_train_batch_size", "max_per_device_train_batch_size", "per_device_eval_batch_size"
    ),
    "peft_conf": {"name_or_path": "adapter_path"},
    "run_conf": _as_here("determinism", "resume_from_checkpoint"),
    "tracking": _as_here("mlflow_server_uri", "experiment_name", "hf_mlflow_log_artifacts"),
    "quant_conf": _as_here(
        "load_in_8bit", "load_in_4bit", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant",
        "bnb_4bit_compute_dtype", "llm_int8_threshold",
    ),
    "sft_args": _as_here("max_seq_length", "length_handling", "train_on_completions_only"),
    "model_conf": {"adapter": "adapter_path"},
}  # fmt: skip
# The same for keys of peft_kwargs; all other keys go into the parameter peft_kwargs.
PEFT_KWARGS = peft_names(LoraParams)

# Section → key without effect → reason.
_OWN_PLACE = "the paths of checkpoints and results are fixed"
_ALWAYS = "with evaluations, the result is always the best checkpoint"
_TRACKED = "metrics are sent to mlflow_server_uri"
IGNORED: dict[str, dict[str, str]] = {
    "data_conf": {},
    "training_args": {
        "output_dir": _OWN_PLACE, "overwrite_output_dir": _OWN_PLACE, "logging_dir": _OWN_PLACE,
        "save_strategy": "a checkpoint is written at every evaluation", "load_best_model_at_end": _ALWAYS,
        "greater_is_better": "it is derived from metric_for_best_model", "report_to": _TRACKED, "run_name": _TRACKED,
        "disable_tqdm": "progress is printed line by line", "remove_unused_columns": "the rows contain only tokens",
        "gradient_checkpointing_kwargs": "activations are recomputed with use_reentrant=False",
        "ddp_find_unused_parameters": "training runs in one process",
        "dataloader_num_workers": "the rows are in memory", "log_level": "the run writes its own log",
        "data_seed": "seed also sets the order of the rows",
    },
    "run_conf": {"final_checkpoint_name": _OWN_PLACE},
    "sft_args": {"save_name_if_new_basemodel": "import_model writes the base model with its new tokens"},
}  # fmt: skip
# Keys with one supported value: (section, key) → (values with that meaning, reason).
FIXED: dict[tuple[str, str], tuple[tuple[Any, ...], str]] = {
    ("data_conf", "padding_side"): (("right",), "rows are padded on the right"),
    ("run_conf", "use_fast_tokenizer"): ((True,), "only fast tokenizers are supported"),
    ("quant_conf", "quantization_type"): (
        ("bits-and-bytes", "no-quantization", None), "load_in_4bit and load_in_8bit set the quantisation"),
    ("quant_conf", "llm_int8_skip_modules"): ((None, []), "a new head and the embeddings are never quantised"),
    ("quant_conf", "llm_int8_enable_fp32_cpu_offload"): ((False,), "the whole model is on one device"),
    ("quant_conf", "llm_int8_has_fp16_weight"): ((False,), "frozen weights are stored in 8 bits only"),
    ("quant_conf", "bnb_4bit_quant_storage"): ((None, "uint8", "auto"), "training runs in one process"),
    ("peft_conf", "task_type"): (("CAUSAL_LM",), "both pipelines train causal language models"),
    ("training_args", "push_to_hub"): ((False,), "results are not uploaded to the Hub"),
    ("training_args", "fsdp"): ((None, "", []), "training runs in one process"),
    ("training_args", "group_by_length"): ((False,), "rows are shuffled"),
}  # fmt: skip
