"""The settings as arguments of verl 0.9.1: overrides of its packaged configuration `ppo_trainer`, in Hydra's grammar.

They are a list of arguments for a process that is started without a shell. Every text is quoted, so that it arrives as
it is: `actor_rollout_ref.model.exclude_modules='.*visual.*'`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from steps.params.lora import ALL, EXPRESSION
from steps.params.verl_settings import VerlSettings

CONFIG = "ppo_trainer"
ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
REF, MODEL = "actor_rollout_ref.ref", "actor_rollout_ref.model"
# What a checkpoint needs for a training to go on from it. The whole model (hf_model) is not among it: with LoRA its
# weights keep the adapter's names, unmerged, and all of them are in the shards (`model`) too.
RESUMABLE = ("model", "optimizer", "extra")
# Loggers of verl: lines for people, and JSON lines in the file that VERL_FILE_LOGGER_PATH names (verl.utils.tracking).
# verl empties that file when it starts, so each start needs a new one.
LOGGERS = ("console", "file")

# Parameter → the keys of verl that get its value as it is. Those that need more are in `_computed`.
OVERRIDES: dict[str, tuple[str, ...]] = {
    "data_train_batch_size": ("data.train_batch_size",),
    "data_max_prompt_length": ("data.max_prompt_length",),
    "data_max_response_length": ("data.max_response_length",),
    "data_filter_overlong_prompts": ("data.filter_overlong_prompts",),
    "data_truncation": ("data.truncation",),
    "data_image_key": ("data.image_key",),
    "shuffle_dataset": ("data.shuffle",),
    "seed": (
        "data.seed", f"{ACTOR}.data_loader_seed", f"{ACTOR}.fsdp_config.seed", f"{REF}.fsdp_config.seed",
        f"{ROLLOUT}.seed", "critic.data_loader_seed", "critic.fsdp.seed",
    ),
    "actor_optim_lr": (f"{ACTOR}.optim.lr",),
    "actor_optim_lr_scheduler_type": (f"{ACTOR}.optim.lr_scheduler_type", "critic.optim.lr_scheduler_type"),
    "actor_optim_lr_warmup_steps_ratio": (
        f"{ACTOR}.optim.lr_warmup_steps_ratio", "critic.optim.lr_warmup_steps_ratio",
    ),
    "actor_optim_weight_decay": (f"{ACTOR}.optim.weight_decay", "critic.optim.weight_decay"),
    "actor_optim_clip_grad": (f"{ACTOR}.optim.clip_grad", "critic.optim.clip_grad"),
    "actor_model_use_remove_padding": (f"{MODEL}.use_remove_padding", "critic.model.use_remove_padding"),
    "actor_model_enable_gradient_checkpointing": (
        f"{MODEL}.enable_gradient_checkpointing", "critic.model.enable_gradient_checkpointing",
    ),
    "actor_strategy": (f"{ACTOR}.strategy", f"{REF}.strategy", "critic.strategy"),
    "actor_fsdp_config_offload_policy": (f"{ACTOR}.fsdp_config.offload_policy", "critic.fsdp.offload_policy"),
    "actor_fsdp_param_offload": (f"{ACTOR}.fsdp_config.param_offload", "critic.fsdp.param_offload"),
    "actor_fsdp_optimizer_offload": (f"{ACTOR}.fsdp_config.optimizer_offload", "critic.fsdp.optimizer_offload"),
    "actor_ppo_mini_batch_size": (f"{ACTOR}.ppo_mini_batch_size", "critic.ppo_mini_batch_size"),
    # verl asks for the critic's too, and then divides the critic's batches by tokens.
    "actor_ppo_micro_batch_size_per_gpu": (
        f"{ACTOR}.ppo_micro_batch_size_per_gpu", "critic.ppo_micro_batch_size_per_gpu",
    ),
    "actor_ppo_epochs": (f"{ACTOR}.ppo_epochs", "critic.ppo_epochs"),
    # The losses read either of the first two.
    "actor_clip_ratio": (f"{ACTOR}.clip_ratio", f"{ACTOR}.clip_ratio_low"),
    "actor_loss_agg_mode": (f"{ACTOR}.loss_agg_mode", "critic.loss_agg_mode"),
    "actor_use_kl_loss": (f"{ACTOR}.use_kl_loss",),
    "actor_kl_loss_coef": (f"{ACTOR}.kl_loss_coef",),
    "actor_kl_loss_type": (f"{ACTOR}.kl_loss_type",),
    "actor_entropy_coeff": (f"{ACTOR}.entropy_coeff",),
    "actor_model_lora_rank": (f"{MODEL}.lora_rank",),
    "actor_model_lora_alpha": (f"{MODEL}.lora_alpha",),
    "rollout_name": (f"{ROLLOUT}.name",),
    "rollout_n": (f"{ROLLOUT}.n",),
    "rollout_temperature": (f"{ROLLOUT}.temperature",),
    "rollout_top_p": (f"{ROLLOUT}.top_p",),
    "rollout_dtype": (f"{ROLLOUT}.dtype",),
    "rollout_tensor_model_parallel_size": (f"{ROLLOUT}.tensor_model_parallel_size",),
    "rollout_gpu_memory_utilization": (f"{ROLLOUT}.gpu_memory_utilization",),
    "rollout_enable_chunked_prefill": (f"{ROLLOUT}.enable_chunked_prefill",),
    "rollout_enforce_eager": (f"{ROLLOUT}.enforce_eager",),
    "rollout_free_cache_engine": (f"{ROLLOUT}.free_cache_engine",),
    "rollout_log_prob_micro_batch_size_per_gpu": (f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu",),
    "rollout_val_n": (f"{ROLLOUT}.val_kwargs.n",),
    "rollout_val_temperature": (f"{ROLLOUT}.val_kwargs.temperature",),
    "rollout_val_top_p": (f"{ROLLOUT}.val_kwargs.top_p",),
    "ref_log_prob_micro_batch_size_per_gpu": (f"{REF}.log_prob_micro_batch_size_per_gpu",),
    "ref_fsdp_param_offload": (f"{REF}.fsdp_config.param_offload",),
    "algorithm_adv_estimator": ("algorithm.adv_estimator",),
    "algorithm_norm_adv_by_std_in_grpo": ("algorithm.norm_adv_by_std_in_grpo",),
    "algorithm_gamma": ("algorithm.gamma",),
    "algorithm_lam": ("algorithm.lam",),
    "algorithm_use_kl_in_reward": ("algorithm.use_kl_in_reward",),
    "algorithm_kl_coef": ("algorithm.kl_ctrl.kl_coef",),
    "critic_optim_lr": ("critic.optim.lr",),
    # The second one is what verl reads; it is not in the packaged configuration.
    "critic_max_token_len_per_gpu": ("critic.ppo_max_token_len_per_gpu", "+critic.ppo_infer_max_token_len_per_gpu"),
    "trainer_n_gpus_per_node": ("trainer.n_gpus_per_node",),
    "trainer_nnodes": ("trainer.nnodes",),
    "trainer_total_epochs": ("trainer.total_epochs",),
    "trainer_critic_warmup": ("trainer.critic_warmup",),
    "trainer_save_freq": ("trainer.save_freq",),
    "trainer_test_freq": ("trainer.test_freq",),
    "trainer_val_before_train": ("trainer.val_before_train",),
    "project": ("trainer.project_name",),
    "experiment": ("trainer.experiment_name",),
}  # fmt: skip


@dataclass(frozen=True)
class Paths:
    """Files and folders of one training."""

    model: str
    """Folder of the Hugging Face model that is trained."""
    train: str
    """Parquet file of the training rows."""
    validation: str
    """Parquet file of the validation rows."""
    checkpoints: str
    """Folder for the checkpoints: global_step_<n> and latest_checkpointed_iteration.txt."""
    reward_file: str = ""
    """Python file with the function that scores completions; empty: verl's own, chosen by the rows' data_source."""
    reward_function: str = "compute_score"
    """Its name."""


def overrides_of(settings: VerlSettings, paths: Paths) -> list[str]:
    """Return the arguments of `python -m verl.trainer.main_ppo`, without that command."""
    pairs = [(key, getattr(settings, name)) for name, keys in OVERRIDES.items() for key in keys]
    pairs += [pair for one in computed(settings).values() for pair in one.items()]
    pairs += _of_files(paths)
    return [f"{key}={written(value)}" for key, value in pairs]


def computed(s: VerlSettings) -> dict[str, dict[str, Any]]:
    """Return the keys of the parameters whose value has another form in verl, by parameter."""
    no_cache = {f"+{ROLLOUT}.engine_kwargs.vllm.mm_processor_cache_gb": 0}
    cached = not (s.rollout_disable_mm_preprocessor_cache and s.images and s.rollout_name == "vllm")
    resumed = {"trainer.resume_mode": s.resume}
    if s.resume not in ("auto", "disable"):
        resumed = {"trainer.resume_mode": "resume_path", "trainer.resume_from_path": s.resume}
    high = s.actor_clip_ratio if s.actor_clip_ratio_high == -1 else s.actor_clip_ratio_high
    kept = s.trainer_max_ckpt_to_keep or None
    return {
        "actor_clip_ratio_high": {f"{ACTOR}.clip_ratio_high": high},
        "actor_model_target_modules": {f"{MODEL}.target_modules": _targets(s.actor_model_target_modules)},
        "actor_model_exclude_modules": {f"{MODEL}.exclude_modules": s.actor_model_exclude_modules or None},
        "rollout_top_k": {f"{ROLLOUT}.top_k": s.rollout_top_k or -1},
        "rollout_val_temperature": {f"{ROLLOUT}.val_kwargs.do_sample": s.rollout_val_temperature > 0},
        "rollout_disable_mm_preprocessor_cache": {} if cached else no_cache,
        "algorithm_adv_estimator": {"critic.enable": s.with_critic},
        "total_training_steps": {"trainer.total_training_steps": s.total_training_steps or None},
        "trainer_max_ckpt_to_keep": {"trainer.max_actor_ckpt_to_keep": kept, "trainer.max_critic_ckpt_to_keep": kept},
        "resume": resumed,
    }


def _targets(text: str) -> Any:
    """Return names as a list: PEFT takes a single text for an expression that matches a layer's whole path."""
    if text == ALL or EXPRESSION.search(text):
        return text
    return [name.strip() for name in text.split(",") if name.strip()]


def _of_files(paths: Paths) -> Iterator[tuple[str, Any]]:
    yield f"{MODEL}.path", paths.model
    yield "critic.model.path", paths.model
    yield "data.train_files", paths.train
    yield "data.val_files", paths.validation
    yield "trainer.default_local_dir", paths.checkpoints
    yield "trainer.logger", list(LOGGERS)
    yield f"{ACTOR}.checkpoint.save_contents", list(RESUMABLE)
    yield "critic.checkpoint.save_contents", list(RESUMABLE)
    if paths.reward_file:
        yield "reward.custom_reward_function.path", paths.reward_file
        yield "reward.custom_reward_function.name", paths.reward_function


def written(value: Any) -> str:
    """Write a value in the grammar of Hydra's overrides, so that it is read back as it is, with its type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(written(one) for one in value)}]"
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    r"""Quote a text for two readers: OmegaConf, which would replace ${…}, and before it Hydra's parser.

    In both, a backslash means itself unless it stands before what has a meaning: ${ for one, a quote for the other.
    """
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    closed = re.sub(r"(\\*)'", r"\1\1\\'", literal)
    return "'" + re.sub(r"(\\+)$", r"\1\1", closed) + "'"
