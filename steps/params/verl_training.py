"""A training with verl's parameters, under the names that plan, trainers and reports read.

With ENGINE=trl the project's own trainer computes it (docs/verl.md has the table). A step of verl is a generation
there: its prompts, their completions, and the updates from these. What verl has no parameter for keeps one value.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from functools import partial
from operator import attrgetter
from typing import Annotated, Any, ClassVar

from steps.errors import Problem, nearest, shown
from steps.params.batch import BatchParams
from steps.params.chat_columns import VerlColumns
from steps.params.deepspeed import DeepSpeedParams
from steps.params.distributed import DistributedParams
from steps.params.divisible import divisors_near, either, multiples_near
from steps.params.group import Group, default_in
from steps.params.quantisation import QuantisationParams
from steps.params.rewarded import RewardedParameters
from steps.params.several import COMMAS
from steps.params.verl import TRL, VerlParams
from steps.params.wording import with_values

# Estimator → the method here: rewards minus the mean of their group, for grpo divided by their deviation.
METHODS = {"grpo": "grpo", "grpo_vectorized": "grpo", "rloo": "rloo", "rloo_vectorized": "rloo"}
# How verl joins the losses of tokens → the loss of TRL that does the same.
LOSSES = {"token-mean": "dapo", "seq-mean-token-mean": "grpo"}
ESTIMATES = ("low_var_kl", "k3")  # two names of the one estimate of the divergence that TRL has

BY_SOURCE = "by_source"  # the reward of the library that scores as verl's own functions do
OWN_FUNCTION = "compute_score"  # what verl calls in a file of the user

# Name elsewhere → the parameter of verl with the same value.
SAME = {
    "train_file_path": "data_train_files",
    "validation_file_path": "data_val_files",
    "learning_rate": "actor_optim_lr",
    "warmup_ratio": "actor_optim_lr_warmup_steps_ratio",
    "weight_decay": "actor_optim_weight_decay",
    "max_grad_norm": "actor_optim_clip_grad",
    "lora_alpha": "actor_model_lora_alpha",
    "lora_target_modules": "actor_model_target_modules",
    "per_device_train_batch_size": "actor_ppo_micro_batch_size_per_gpu",
    "num_train_epochs": "trainer_total_epochs",
    "num_generations": "rollout_n",
    "max_prompt_length": "data_max_prompt_length",
    "max_completion_length": "data_max_response_length",
    "temperature": "rollout_temperature",
    "top_p": "rollout_top_p",
    "top_k": "rollout_top_k",
    "num_iterations": "actor_ppo_epochs",
    "epsilon": "actor_clip_ratio",
    "epsilon_high": "actor_clip_ratio_high",
    "vllm_gpu_memory_utilization": "rollout_gpu_memory_utilization",
}


def _whole(count: int, by: int) -> int:
    """Divide; at least 1, because a batch that leaves a rest is refused elsewhere."""
    return max(1, count // max(1, by))


# Name elsewhere → (the parameters of verl that it follows from, how).
COMPUTED: dict[str, tuple[tuple[str, ...], Any]] = {
    "apply_lora": (("actor_model_lora_rank",), lambda p: p.actor_model_lora_rank > 0),
    "lora_r": (("actor_model_lora_rank",), lambda p: max(1, p.actor_model_lora_rank)),
    "lr_scheduler_type": (
        ("actor_optim_lr_scheduler_type",),
        lambda p: (
            "constant_with_warmup"
            if p.actor_optim_lr_warmup_steps_ratio and p.actor_optim_lr_scheduler_type == "constant"
            else p.actor_optim_lr_scheduler_type
        ),
    ),
    "gradient_checkpointing": (
        ("actor_model_enable_gradient_checkpointing",),
        lambda p: str(p.actor_model_enable_gradient_checkpointing).lower(),
    ),
    "gradient_accumulation_steps": (
        ("actor_ppo_mini_batch_size",),
        lambda p: _whole(p.actor_ppo_mini_batch_size * p.rollout_n, p.devices * p.actor_ppo_micro_batch_size_per_gpu),
    ),
    "steps_per_generation": (("data_train_batch_size",), lambda p: p.gradient_accumulation_steps * p.updates),
    "max_steps": (
        ("total_training_steps",),
        lambda p: p.total_training_steps * p.updates * p.actor_ppo_epochs or -1,
    ),
    "save_total_limit": (("trainer_max_ckpt_to_keep",), lambda p: p.trainer_max_ckpt_to_keep or -1),
    "save_steps": (("trainer_save_freq",), lambda p: p.trainer_save_freq * p.updates * p.actor_ppo_epochs),
    "evaluation_strategy": (("trainer_test_freq",), lambda p: "steps" if p.trainer_test_freq > 0 else "no"),
    "eval_steps": (("trainer_test_freq",), lambda p: max(1, p.trainer_test_freq) * p.updates * p.actor_ppo_epochs),
    # An evaluation writes rollout_n completions to each prompt.
    "per_device_eval_batch_size": (("rollout_n",), lambda p: p.rollout_n),
    "length_handling": (
        ("data_filter_overlong_prompts", "data_truncation"),
        lambda p: "filter" if p.data_filter_overlong_prompts else "truncate",
    ),
    "beta": (("actor_use_kl_loss", "actor_kl_loss_coef"), lambda p: p.actor_use_kl_loss * p.actor_kl_loss_coef),
    "method": (("algorithm_adv_estimator",), lambda p: METHODS.get(p.algorithm_adv_estimator, "grpo")),
    "loss_type": (("actor_loss_agg_mode",), lambda p: LOSSES.get(p.actor_loss_agg_mode, "dapo")),
    "scale_rewards": (
        ("algorithm_norm_adv_by_std_in_grpo",),
        lambda p: "group" if p.method != "grpo" or p.algorithm_norm_adv_by_std_in_grpo else "none",
    ),
    # verl's groups of GPUs may be larger than what trains here.
    "vllm_tensor_parallel_size": (
        ("rollout_tensor_model_parallel_size",),
        lambda p: p.rollout_tensor_model_parallel_size if p.number_of_gpu_to_use_finetuning else 1,
    ),
    "precision": (("number_of_gpu_to_use_finetuning",), lambda p: "16" if p.number_of_gpu_to_use_finetuning else "32"),
}

# What verl has no parameter for: the default of every other training, but for these.
OTHER_DEFAULTS: dict[str, Any] = {"deepspeed": "false", "optim": "adamw_torch", "logging_steps": 1}
WITHOUT_COUNTERPART = (
    "max_seq_length", "pad_to_max_length", "packing", "train_on_completions_only", "response_template",
    "instruction_template", "comma_separated_template", "peft_type", "lora_dropout", "use_dora", "use_rslora",
    "init_lora_weights", "num_virtual_tokens", "peft_kwargs", *QuantisationParams.model_fields,
    *DistributedParams.model_fields, *DeepSpeedParams.model_fields, *BatchParams.model_fields, "adapter_use",
    "auto_find_batch_size", "warmup_steps", "optim", "neftune_noise_alpha", "determinism", "attn_implementation",
    "model_args", "metric_for_best_model", "logging_strategy", "logging_steps", "apply_early_stopping",
    "early_stopping_patience", "early_stopping_threshold", "stop_on_loss_spike", "repetition_penalty", "use_vllm",
    "importance_sampling_level", "normalize_advantages", "mask_truncated_completions", "use_liger_kernel", "do_eval",
)  # fmt: skip
FIXED = {name: OTHER_DEFAULTS.get(name, default_in(RewardedParameters, name)) for name in WITHOUT_COUNTERPART}


# What messages of other trainings advise → the same with verl's parameters, where these have other values.
PHRASES = {
    "length_handling=truncate": "data_filter_overlong_prompts=false and data_truncation=left",
    "apply_lora=true": f"actor_model_lora_rank={default_in(VerlParams, 'actor_model_lora_rank')}",
    "apply_lora=false": "actor_model_lora_rank=0",
    "gradient_checkpointing=true": "actor_model_enable_gradient_checkpointing=true",
    "evaluation_strategy=no": "trainer_test_freq=-1",
    "raise warmup_steps": "raise actor_optim_lr_warmup_steps_ratio",
    ", or set precision=32": "",  # it follows from the device
    "halve per_device_train_batch_size and double gradient_accumulation_steps":
        "halve actor_ppo_micro_batch_size_per_gpu",  # an update keeps its size
    "lower per_device_train_batch_size or gradient_accumulation_steps":
        "lower data_train_batch_size, and actor_ppo_mini_batch_size with it",
}  # fmt: skip

ONLY_GPUS = "it is about verl's use of GPUs"
ONLY_CRITIC = "no critic is trained"
# Parameter of verl without effect where verl does not train → the reason, as it stands after a colon.
WITHOUT_VERL = {
    **dict.fromkeys(
        ("actor_strategy", "actor_fsdp_config_offload_policy", "actor_fsdp_param_offload",
         "actor_fsdp_optimizer_offload", "actor_model_use_remove_padding", "rollout_dtype", "rollout_enforce_eager",
         "rollout_enable_chunked_prefill", "rollout_free_cache_engine", "rollout_disable_mm_preprocessor_cache",
         "rollout_log_prob_micro_batch_size_per_gpu", "ref_log_prob_micro_batch_size_per_gpu",
         "ref_fsdp_param_offload", "rollout_name", "trainer_n_gpus_per_node", "trainer_nnodes"), ONLY_GPUS,
    ),
    **dict.fromkeys(
        ("critic_optim_lr", "critic_max_token_len_per_gpu", "trainer_critic_warmup", "algorithm_gamma",
         "algorithm_lam"), ONLY_CRITIC,
    ),
    "algorithm_kl_coef": "algorithm_use_kl_in_reward is false",
    "data_image_key": "the project's own trainer hands no images to a model",
    "actor_model_exclude_modules": "the models of this trainer have no visual layers",
    **dict.fromkeys(("rollout_val_n", "rollout_val_temperature", "rollout_val_top_p"),
                    "a validation writes completions as the training does"),
    "trainer_val_before_train": "the first validation is after trainer_test_freq steps",
}  # fmt: skip


def _named_elsewhere() -> type[Group]:
    """Make a group of class variables, which take the place of the fields of these names (`Group.own_names`)."""
    found = {name: property(attrgetter(of)) for name, of in SAME.items()}
    found |= {name: property(how) for name, (_, how) in COMPUTED.items()}
    found |= {name: property(partial(_always, value)) for name, value in FIXED.items()}
    doc = "The parameters of verl under the names of the project's own trainings."
    body = {"__doc__": doc, "__module__": __name__, "__annotations__": dict.fromkeys(found, ClassVar[Any]), **found}
    return types.new_class("NamedElsewhere", (Group,), exec_body=lambda names: names.update(body))


def _always(value: Any, parameters: Group) -> Any:
    return value


NamedElsewhere: Any = _named_elsewhere()


class VerlTrainingParameters(VerlColumns, NamedElsewhere, VerlParams, RewardedParameters):  # type: ignore[misc]
    """Train a chat model with rewards of the answers that it writes, with verl or without."""

    task: ClassVar[str] = "verl"
    own_names: ClassVar[Mapping[str, str]] = SAME
    needed: ClassVar[tuple[tuple[str, ...], ...]] = (
        RewardedParameters.needed[0],
        ("data_train_files", "dataset_name"),
    )

    reward_funcs: Annotated[str, COMMAS] = ""
    """Comma-separated rewards: names of the library, or functions as file.py:function; empty: by_source."""

    @property
    def rewards(self) -> list[str]:
        """Names of the rewards; where none is given, the file's function, or the reward that a row's source chooses."""
        if path := self.custom_reward_function_path:
            return [f"{path}:{OWN_FUNCTION}"]
        return [name.strip() for name in self.reward_funcs.split(",") if name.strip()] or [BY_SOURCE]

    @classmethod
    def named(cls, name: str) -> str:
        """Return the parameter of verl from which another name's value follows."""
        return SAME.get(name) or COMPUTED.get(name, ((name,), None))[0][0]

    @classmethod
    def other_names(cls) -> dict[str, str]:
        """Return what messages say in place of the names of other trainings."""
        computed = {name: cls.named(name) for name in COMPUTED}
        return {**computed, **with_values(SAME), **PHRASES}

    @property
    def updates(self) -> int:
        """Updates from the completions of a step, each time that they are learned from."""
        return _whole(self.data_train_batch_size, self.actor_ppo_mini_batch_size)

    def conflicts(self) -> Iterator[Problem]:
        """Refuse rewards that are named twice, and what only verl can do, where verl does not train."""
        if self.reward_funcs and self.custom_reward_function_path:
            yield Problem("PARAM-E0352", "custom_reward_function_path", "a file, and reward_funcs too", "one of them",
                          f"leave it out, and write {shown(self.rewards[0])} into reward_funcs")  # fmt: skip
        if self.uses_verl:
            return
        yield from self._only_verl()
        yield from self._unequal_batches()

    def _only_verl(self) -> Iterator[Problem]:
        choices: dict[str, tuple[str, ...]] = {
            "algorithm_adv_estimator": tuple(METHODS),
            "actor_loss_agg_mode": tuple(LOSSES),
            **({"actor_kl_loss_type": ESTIMATES} if self.actor_use_kl_loss else {}),
            **({} if self.data_filter_overlong_prompts else {"data_truncation": ("left",)}),
        }
        for name, known in choices.items():
            if (value := getattr(self, name)) not in known:
                fix = nearest(str(value), known) or f"set {name}={known[0]}, or another ENGINE"
                if name == "data_truncation":
                    fix = "set data_truncation=left, or data_filter_overlong_prompts=true"
                yield Problem("PARAM-E0349", name, f"{shown(value)} with ENGINE={TRL}", " or ".join(known), fix,
                              why="the others are computed by verl alone")  # fmt: skip
        if self.algorithm_use_kl_in_reward:
            yield Problem("PARAM-E0349", "algorithm_use_kl_in_reward", f"true with ENGINE={TRL}", "false",
                          "set actor_use_kl_loss=true instead, or another ENGINE",
                          why="here the divergence is part of the loss")  # fmt: skip
        if self.actor_entropy_coeff:
            yield Problem("PARAM-E0349", "actor_entropy_coeff", f"{self.actor_entropy_coeff:g} with ENGINE={TRL}", "0",
                          "leave it out, or set another ENGINE",
                          why="the loss here has no entropy")  # fmt: skip

    def _unequal_batches(self) -> Iterator[Problem]:
        """Refuse steps that are no whole number of updates, and updates that are no whole number of batches."""
        train, mini = self.data_train_batch_size, self.actor_ppo_mini_batch_size
        if train % mini:
            yield Problem("PARAM-E0351", "data_train_batch_size", f"{train} with actor_ppo_mini_batch_size={mini}",
                          f"a multiple of {mini}", f"set it to {either(multiples_near(train, 1, mini))}",
                          why="an update is never filled with empty completions here")  # fmt: skip
        micro, completions = self.actor_ppo_micro_batch_size_per_gpu, mini * self.rollout_n
        if completions % (micro * self.devices):
            each = f" × {self.devices} processes" if self.devices > 1 else ""
            yield Problem("PARAM-E0351", "actor_ppo_micro_batch_size_per_gpu",
                          f"{micro}{each} for an update of {completions} completions "
                          f"({mini} prompts × rollout_n={self.rollout_n})", f"a divisor of {completions}",
                          f"set it to {either(divisors_near(completions // self.devices or 1, micro))}")  # fmt: skip
