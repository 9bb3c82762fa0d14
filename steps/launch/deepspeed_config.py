"""DeepSpeed configurations: the built-in ones, and a user's JSON file, converted to current names.

In the built-in ones, values that our parameters set (batch, clipping, 16 bit) are "auto": the Trainer fills them in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from steps.errors import Problem, SecurityRefusal, UserError, nearest, shown
from steps.params.secrets import secret_in
from steps.params.text_file import decoded
from steps.sources import storage

LARGEST = 256 * 1024  # bytes; a typical configuration has a few kilobytes
Config = dict[str, Any]

_LOSS_SCALE = {"enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000, "hysteresis": 2, "min_loss_scale": 1}
_ON_CPU = {"device": "cpu", "pin_memory": True}
_BATCH = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
}
# No optimizer and no scheduler: the parameters set them.
BUILT_IN: dict[str, Config] = {
    "2": {
        "fp16": _LOSS_SCALE,
        "bf16": {"enabled": "auto"},
        "zero_optimization": {
            "stage": 2,
            "offload_optimizer": _ON_CPU,
            "allgather_partitions": True,
            "allgather_bucket_size": 200_000_000,
            "overlap_comm": True,
            "reduce_scatter": True,
            "reduce_bucket_size": 200_000_000,
            "contiguous_gradients": False,
        },
        "zero_allow_untested_optimizer": True,
        **_BATCH,
    },
    "3": {
        "fp16": {**_LOSS_SCALE, "initial_scale_power": 16},
        "bf16": {"enabled": "auto"},
        "zero_optimization": {
            "stage": 3,
            "offload_optimizer": _ON_CPU,
            "offload_param": _ON_CPU,
            "contiguous_gradients": True,
            "sub_group_size": 1_000_000_000,
            "reduce_bucket_size": "auto",
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
            "stage3_gather_16bit_weights_on_model_save": True,
            "memory_efficient_linear": False,
        },
        **_BATCH,
    },
}

# Top-level keys of a configuration of DeepSpeed 0.19.
KEYS = {
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping",
    "optimizer", "scheduler", "fp16", "bf16", "amp", "zero_optimization", "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer", "steps_per_print", "wall_clock_breakdown", "memory_breakdown", "dump_state",
    "prescale_gradients", "gradient_predivide_factor", "gradient_allreduce_op", "sparse_gradients",
    "communication_data_type", "seq_parallel_communication_data_type", "disable_allgather", "disable_python_gc",
    "allgather_size", "check_overflow", "torch_autocast", "comms_logger", "flops_profiler",
    "activation_checkpointing", "aio", "data_types", "dataloader_drop_last", "checkpoint", "nebula", "compile",
    "tensorboard", "wandb", "csv_monitor", "comet", "autotuning", "elasticity", "compression_training",
    "data_efficiency", "curriculum_learning", "progressive_layer_drop", "eigenvalue", "quantize_training",
    "hybrid_engine", "pipeline", "tensor_parallel", "expert_parallel", "sequence_parallel_size",
    "weight_quantization", "inference", "graph_harvesting", "use_data_before_expert_parallelism",
    "managed_gradient_accumulation", "log_level", "vocabulary_size", "timers",
}  # fmt: skip
# Keys of zero_optimization, where an unknown key is an error in DeepSpeed; current names only.
ZERO_KEYS = {
    "stage", "contiguous_gradients", "reduce_scatter", "reduce_bucket_size", "use_multi_rank_bucket_allreduce",
    "allgather_partitions", "allgather_bucket_size", "overlap_comm", "compute_grad_norm", "load_from_fp32_weights",
    "elastic_checkpoint", "offload_param", "offload_optimizer", "zenflow", "sub_group_size",
    "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold", "stage3_model_persistence_threshold",
    "stage3_max_live_parameters", "stage3_max_reuse_distance", "stage3_gather_16bit_weights_on_model_save",
    "stage3_module_granularity_threshold", "stage3_use_all_reduce_for_fetch_params", "stage3_allgather_sequential",
    "ignore_unused_parameters", "legacy_stage1", "round_robin_gradients", "parameter_alignment",
    "zero_hpz_partition_size", "zero_quantized_weights", "zero_quantized_nontrainable_weights",
    "zero_quantized_gradients", "memory_efficient_linear", "pipeline_loading_checkpoint", "override_module_apply",
    "log_trace_cache_warnings", "enable_sanity_checks", "save_muon_momentum_buffer_in_memory", "leaf_module",
}  # fmt: skip
OFFLOAD_KEYS = {
    "offload_param": {"device", "nvme_path", "buffer_count", "buffer_size", "max_in_cpu", "pin_memory"},
    "offload_optimizer": {
        "device", "nvme_path", "buffer_count", "pin_memory", "pipeline_read", "pipeline_write", "fast_init", "ratio",
        "super_offload", "cpuadam_cores_perc",
    },
}  # fmt: skip

# Keys for which DeepSpeed compiles an operator before the first step; the image has no compiler.
COMPILED = ("zenflow", "zero_quantized_weights", "zero_quantized_nontrainable_weights", "zero_quantized_gradients")

# Key in accelerate's configuration → key in DeepSpeed's.
OF_ACCELERATE = {
    "zero_stage": "stage",
    "zero3_save_16bit_model": "stage3_gather_16bit_weights_on_model_save",
    "offload_optimizer_device": "offload_optimizer",
    "offload_param_device": "offload_param",
}
# Keys of accelerate's configuration for launching processes, which other parameters set here.
LAUNCHING = {
    "compute_environment", "debug", "deepspeed_multinode_launcher", "deepspeed_hostfile", "distributed_type",
    "downcast_bf16", "dynamo_backend", "dynamo_config", "enable_cpu_affinity", "fsdp_config", "machine_rank",
    "main_process_ip", "main_process_port", "main_training_function", "megatron_lm_config", "mixed_precision",
    "num_machines", "num_processes", "rdzv_backend", "same_network", "tpu_env", "tpu_use_cluster", "tpu_use_sudo",
    "use_cpu", "zero3_init_flag",
}  # fmt: skip
# Block that sends metrics or checkpoints elsewhere → what does it here.
SERVICES = {
    **dict.fromkeys(("tensorboard", "wandb", "csv_monitor", "comet"), "metrics are sent to mlflow_server_uri"),
    "nebula": "checkpoint_dir is the folder of checkpoints",
}
# Key in older versions of DeepSpeed → current key.
OLD_ZERO_KEYS = {
    "cpu_offload": "offload_optimizer",
    "cpu_offload_params": "offload_param",
    "cpu_offload_param": "offload_param",
    "stage3_gather_fp16_weights_on_model_save": "stage3_gather_16bit_weights_on_model_save",
    "prefetch_bucket_size": "stage3_prefetch_bucket_size",
    "param_persistence_threshold": "stage3_param_persistence_threshold",
    "max_live_parameters": "stage3_max_live_parameters",
    "max_reuse_distance": "stage3_max_reuse_distance",
    "gather_16bit_weights_on_model_save": "stage3_gather_16bit_weights_on_model_save",
}


@dataclass(frozen=True)
class ConfigFile:
    """A user's configuration file."""

    config: Config
    uri: str
    digest: str
    size: int


def read_file(parameter: str, uri: str) -> ConfigFile:
    """Read a configuration file.

    Raises UserError if it is not a JSON object, SecurityRefusal if it contains a secret, and the errors of
    `storage.read_bytes`.
    """
    if problems := storage.check_uri(parameter, uri):
        raise UserError(problems)
    content = storage.read_bytes(parameter, uri, LARGEST + 1)
    if len(content) > LARGEST:
        raise _unreadable(parameter, f"{uri} with more than {LARGEST:,} bytes")
    text = decoded(f"{parameter} {uri}", content)
    try:
        config = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _unreadable(parameter, f"{uri}: {error}") from None
    if not isinstance(config, dict):
        raise _unreadable(parameter, f"{uri}, which contains {shown(config)}")
    if kind := secret_in(text):
        raise SecurityRefusal(
            Problem("PARAM-E0302", parameter, f"{kind} in {uri}", "no secret", "remove it",
                    why="the configuration is stored and shown in reports")
        )  # fmt: skip
    return ConfigFile(config, uri, hashlib.sha256(content).hexdigest(), len(content))


def normalised(given: Config, warn: Callable[[str], None]) -> Config:
    """Convert a configuration to current names; `warn` is called for each changed or ignored key.

    Before: {"zero_stage": 2, "num_processes": 8, "scheduler": {"type": "WarmupLR"}, "zero_optimization":
    {"cpu_offload": true}}. After: {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu",
    "pin_memory": true}}}.
    """
    config = deepcopy(given)
    if isinstance(config.get("deepspeed_config"), dict):
        config = {**config.pop("deepspeed_config"), **config}
    zero = config.setdefault("zero_optimization", {})
    if "bfloat16" in config:
        warn("bfloat16: read as bf16")
        config.setdefault("bf16", config.pop("bfloat16"))
    for block, ours in (
        ("optimizer", "optim, learning_rate and weight_decay"),
        ("scheduler", "lr_scheduler_type, warmup_steps and warmup_ratio"),
    ):
        if config.pop(block, None) is not None:
            warn(f"its {block} is ignored: the parameters {ours} are used")
    for block, instead in SERVICES.items():
        asked = config.pop(block, None)
        if asked is True or (isinstance(asked, dict) and asked.get("enabled") is True):
            warn(f"its {block} is ignored: {instead}")
    if left := sorted(LAUNCHING & set(config)):
        warn(f"{', '.join(left)}: ignored, because other parameters set how processes are launched")
        config = {key: value for key, value in config.items() if key not in LAUNCHING}
    if isinstance(zero, dict):
        _rename(config, zero, OF_ACCELERATE, warn)
        _rename(zero, zero, OLD_ZERO_KEYS, warn)
        pinned = zero.pop("cpu_offload_use_pin_memory", None)
        for name in OFFLOAD_KEYS:
            if isinstance(zero.get(name), dict) and isinstance(pinned, bool):
                zero[name]["pin_memory"] = pinned
    for key in sorted(set(config) - KEYS):
        hint = nearest(key, KEYS)
        warn(f"{key}: unknown to DeepSpeed, which ignores it{f'; {hint}' if hint else ''}")
    return config


def _rename(found: Config, zero: Config, names: dict[str, str], warn: Callable[[str], None]) -> None:
    """Move values from `found` to DeepSpeed's keys in `zero`; values already in `zero` are kept."""
    for old, new in names.items():
        if old not in found:
            continue
        value = found.pop(old)
        if new in OFFLOAD_KEYS:
            on_cpu = value == "cpu" or value is True
            value = dict(_ON_CPU) if on_cpu else {"device": value if isinstance(value, str) else "none"}
        if new in zero:
            warn(f"{old}: ignored, because zero_optimization.{new} is set")
            continue
        warn(f"{old}: read as zero_optimization.{new}")
        zero[new] = value


def zero_problems(config: Config, where: str) -> Iterator[Problem]:
    """Yield problems of a zero_optimization block with which DeepSpeed fails, or does not save the weights."""
    zero = config["zero_optimization"]
    stage = zero.get("stage") if isinstance(zero, dict) else None
    if type(stage) is not int or stage not in range(4):
        yield Problem("PLAN-E0332", f"{where}: zero_optimization.stage", shown(stage), "a whole number from 0 to 3",
                      'write "zero_optimization": {"stage": 2}')  # fmt: skip
        return
    for key in sorted(set(zero) - ZERO_KEYS):
        yield _unknown(f"{where}: zero_optimization.{key}", zero[key], key, ZERO_KEYS)
    if stage == 3 and zero.get("stage3_gather_16bit_weights_on_model_save") is not True:
        yield Problem("PLAN-E0333", f"{where}: zero_optimization.stage3_gather_16bit_weights_on_model_save",
                      shown(zero.get("stage3_gather_16bit_weights_on_model_save")),
                      "true with stage 3", "set it to true",
                      why="without it the complete model is not saved")  # fmt: skip
    for key in (key for key in COMPILED if zero.get(key)):
        yield Problem("PLAN-E0334", f"{where}: zero_optimization.{key}", shown(zero[key]), "no value, or false",
                      "leave it out",
                      why="it needs an operator that DeepSpeed compiles, and the image has no compiler")  # fmt: skip
    for name, keys in OFFLOAD_KEYS.items():
        yield from _offload_problems(zero, name, keys, where, stage)


def _offload_problems(zero: Config, name: str, keys: set[str], where: str, stage: int) -> Iterator[Problem]:
    block = zero.get(name)
    if block is None:
        return
    if not isinstance(block, dict) or block.get("device", "none") not in ("cpu", "none", None):
        found = block.get("device") if isinstance(block, dict) else block
        yield Problem("PLAN-E0334", f"{where}: zero_optimization.{name}.device", shown(found), "cpu or none",
                      "set it to cpu", why="offloading to a disk needs an operator that DeepSpeed compiles, and the "
                      "image has no compiler")  # fmt: skip
        return
    for key in sorted(set(block) - keys):
        yield _unknown(f"{where}: zero_optimization.{name}.{key}", block[key], key, keys)
    if block.get("device") == "cpu" and stage < (3 if name == "offload_param" else 1):
        yield Problem("PLAN-E0340", f"{where}: zero_optimization.{name}", f"cpu with stage {stage}",
                      "stage 3" if name == "offload_param" else "stage 1, 2 or 3",
                      "leave it out, or raise the stage")  # fmt: skip


def offloads(config: Config, what: str) -> bool:
    """Return whether `what` (offload_optimizer or offload_param) offloads to the CPU's memory."""
    return (config["zero_optimization"].get(what) or {}).get("device") == "cpu"


def _unknown(where: str, value: Any, key: str, known: set[str]) -> Problem:
    return Problem("PLAN-E0335", where, shown(value), "a key of DeepSpeed's configuration",
                   nearest(key, known) or "leave it out")  # fmt: skip


def _unreadable(parameter: str, found: str) -> UserError:
    return UserError(
        Problem("PLAN-E0331", parameter, found, "a DeepSpeed configuration as one JSON object",
                f"correct the file, or leave {parameter} out to use the built-in one of deepspeed_stage")
    )  # fmt: skip


def _without_repeats(pairs: list[tuple[str, Any]]) -> Config:
    names = [name for name, _ in pairs]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"the key {repeated[0]} twice in one object")
    return dict(pairs)


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text}, which is not valid JSON")
