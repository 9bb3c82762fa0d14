"""Reinforcement learning with verl: what a user sets, under the names of Azure's component, with verl's choices.

verl 0.9.1 checks neither types nor names of choices, so every choice is listed here. What the batch sizes mean and the
key of verl behind each parameter: docs/verl.md.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from steps.errors import Problem, shown
from steps.params.chat_columns import ImageColumn
from steps.params.choice import OneOf
from steps.params.group import Group, Renamed, default_in, with_default
from steps.params.lora import ALL, EXPRESSION
from steps.params.patterns import fault_of
from steps.params.reward_training import RewardTraining
from steps.params.several import COMMAS, LINES
from steps.params.training import TrainingParams

TRL = "trl"
# Estimators that compare the completions to one prompt with each other, and so need several.
OF_GROUPS = (
    "grpo", "grpo_vectorized", "grpo_passk", "rloo", "rloo_vectorized", "opo", "gpg", "reinforce_plus_plus_baseline",
)  # fmt: skip
WITH_CRITIC = "gae"  # verl.trainer.ppo.utils.need_critic
ESTIMATORS = (*OF_GROUPS, "reinforce_plus_plus", WITH_CRITIC)
# Estimators that verl names too. Its trainer (verl.trainer.ppo.v1) does not compute what they need, and stops in the
# first step.
NOT_COMPUTED = {
    "remax": "set rloo: verl 0.9.1's trainer writes no greedy completion to compare with",
    "optimal_token_baseline": "set opo: verl 0.9.1's trainer does not hand on the probabilities that it needs",
    "tir_optimal_token_baseline": "set opo: verl 0.9.1's trainer does not hand on the probabilities that it needs",
    "gdpo": "set grpo: verl 0.9.1's trainer does not hand on the parts of a reward",
}
KlEstimate = Literal["low_var_kl", "k3", "kl", "k1", "abs", "mse", "k2", "low_var_kl+", "k3+", "k1+"]
LARGEST_RANK = 512  # of vLLM: verl.workers.rollout.vllm_rollout.utils.get_vllm_max_lora_rank


class VerlFiles(Group):
    """The rows."""

    data_train_files: Annotated[str, LINES] = ""
    """Training prompts: verl's parquet files, or rows in any other format that the columns are named for."""

    data_val_files: Annotated[str, LINES] = ""
    """Prompts for validation during training, in the same formats; empty splits them off the training rows."""


class VerlEngine(Group):
    """What trains."""

    ENGINE: Literal["vllm", "sglang", "trtllm", "trl"] = "vllm"
    """What writes completions in verl, as rollout_name; or trl: train without verl, also small models on CPUs."""

    @property
    def uses_verl(self) -> bool:
        """Whether verl trains."""
        return self.ENGINE != TRL


class VerlData(ImageColumn):
    """Prompts, and how long they and the completions may be."""

    data_train_batch_size: int = Field(512, ge=1, le=1_000_000)
    """Prompts per step; each gets rollout_n completions."""

    data_max_prompt_length: int = Field(1024, ge=1)
    """Longest prompt in tokens."""

    data_max_response_length: int = Field(2048, ge=1)
    """Longest completion in tokens."""

    data_filter_overlong_prompts: bool = True
    """Leave out prompts of more than data_max_prompt_length tokens."""

    data_truncation: Literal["error", "left", "right", "middle"] = "error"
    """What becomes of longer prompts that are not left out: an error, or a cut on the left, right or in the middle."""

    shuffle_dataset: bool = with_default(RewardTraining, "shuffle_dataset", True)
    seed: int = with_default(TrainingParams, "seed", 42)


class VerlActor(Group):
    """The model that is trained."""

    actor_optim_lr: float = Field(3e-6, gt=0)
    """Learning rate of the model."""

    actor_optim_lr_scheduler_type: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warmup: constant, or falling to 0 as a cosine."""

    actor_optim_lr_warmup_steps_ratio: float = Field(0.0, ge=0, lt=1)
    """Share of all steps in which the learning rate rises from 0."""

    actor_optim_weight_decay: float = Field(0.01, ge=0)
    """Weight decay."""

    actor_optim_clip_grad: float = Field(1.0, gt=0)
    """Clip gradients to this norm."""

    actor_model_use_remove_padding: bool = True
    """Compute no padding: the sequences of a batch are one long row; needs flash attention."""

    actor_model_enable_gradient_checkpointing: bool = True
    """Recompute activations in the backward pass, which saves memory."""

    actor_strategy: Literal["fsdp", "fsdp2"] = "fsdp2"
    """How GPUs share the weights: PyTorch's FSDP or its successor fully_shard."""

    actor_fsdp_config_offload_policy: bool = True
    """Keep weights, gradients and optimizer states in CPU memory, also while training; only fsdp2 does."""

    actor_fsdp_param_offload: bool = False
    """Move the weights to CPU memory while completions are written."""

    actor_fsdp_optimizer_offload: bool = False
    """Move the optimizer states to CPU memory while completions are written."""

    actor_ppo_mini_batch_size: int = Field(128, ge=1, le=1_000_000)
    """Prompts per update of the weights; verl multiplies it by rollout_n."""

    actor_ppo_micro_batch_size_per_gpu: int = Field(10, ge=1)
    """Completions per forward and backward pass on one GPU; changes memory, not the result."""

    actor_ppo_epochs: int = Field(1, ge=1)
    """Times that each completion is learned from."""

    actor_clip_ratio: float = Field(0.2, gt=0)
    """How far a token's probability may fall from that when it was written: the ratio is clipped at 1 - this."""

    actor_clip_ratio_high: float = Field(-1.0, ge=-1)
    """The ratio is clipped at 1 + actor_clip_ratio_high; -1 uses actor_clip_ratio."""

    actor_loss_agg_mode: Literal[
        "token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"
    ] = "token-mean"
    """How the losses of tokens become one: token-mean weights every token alike, seq-mean every completion."""

    actor_use_kl_loss: bool = True
    """Add the divergence from the model before training to the loss."""

    actor_kl_loss_coef: float = Field(0.01, ge=0)
    """Weight of that divergence."""

    actor_kl_loss_type: KlEstimate = "low_var_kl"
    """Estimate of that divergence: low_var_kl is k3, kl is k1, mse is k2; + takes the gradient of k2."""

    actor_entropy_coeff: float = Field(0.0, ge=0)
    """Weight of the entropy in the loss; more than 0 keeps completions varied."""

    actor_model_lora_rank: int = Field(64, ge=0)
    """Rank of the LoRA adapter that is trained; 0 trains every weight."""

    actor_model_lora_alpha: int = Field(32, ge=1)
    """Scale of the adapter: its update is multiplied by lora_alpha / lora_rank."""

    actor_model_target_modules: Annotated[str, COMMAS] = Field(ALL, min_length=1)
    """Layers with an adapter: all-linear, names separated by commas (q_proj,v_proj), or a regular expression."""

    actor_model_exclude_modules: str = ".*visual.*"
    """Regular expression of layers without an adapter, which matches their whole path; empty excludes none."""

    def conflicts(self) -> Iterator[Problem]:
        """Refuse half a bound, expressions that are none, and settings of an adapter that is not trained."""
        if -1 < self.actor_clip_ratio_high < 0:
            yield Problem("PARAM-E0341", "actor_clip_ratio_high", str(self.actor_clip_ratio_high),
                          "a number above 0, or -1", "set it to -1 to use actor_clip_ratio")  # fmt: skip
        for name in ("actor_model_target_modules", "actor_model_exclude_modules"):
            value = getattr(self, name)
            if EXPRESSION.search(value) and (wrong := fault_of(value)):
                yield Problem("PARAM-E0342", name, f"{shown(value)} ({wrong})", "names or a regular expression",
                              "correct it")  # fmt: skip
        if self.actor_model_lora_rank == 0:
            for name in ("actor_model_lora_alpha", "actor_model_target_modules", "actor_model_exclude_modules"):
                if (value := getattr(self, name)) not in (default_in(VerlActor, name), ""):
                    yield Problem("PARAM-E0343", name, f"{shown(value)} with actor_model_lora_rank=0",
                                  "a rank above 0", f"leave {name} out, or set actor_model_lora_rank",
                                  why="rank 0 trains every weight, without an adapter")  # fmt: skip


class VerlRollout(Group):
    """How completions are written."""

    # All that verl 0.9.1 has (verl.workers.rollout.base).
    rollout_name: Literal["vllm", "sglang", "trtllm"] = "vllm"
    """What writes completions: vLLM, SGLang or TensorRT-LLM; ENGINE is another name of it."""

    rollout_n: int = Field(5, ge=1, le=10_000)
    """Completions to each prompt, a group."""

    rollout_temperature: float = Field(1.0, ge=1e-4)
    """Temperature of sampling: less than 1 prefers probable tokens more."""

    rollout_top_p: float = Field(1.0, gt=0, le=1)
    """Sample from the most probable tokens whose probabilities reach this sum; 1 samples from all."""

    rollout_top_k: int = Field(0, ge=0)
    """Sample from this many of the most probable tokens; 0 samples from all."""

    rollout_dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Floating-point numbers of the copy that writes completions; training computes in bfloat16."""

    rollout_tensor_model_parallel_size: int = Field(2, ge=1)
    """GPUs that share one copy that writes completions; a divisor of the GPUs per node."""

    rollout_gpu_memory_utilization: float = Field(0.6, gt=0, lt=1)
    """Share of each GPU's memory for that copy and its cache."""

    rollout_enable_chunked_prefill: bool = False
    """Read long prompts in pieces, between the tokens of other completions."""

    rollout_enforce_eager: bool = False
    """Do without CUDA graphs: slower, less memory."""

    rollout_free_cache_engine: bool = False
    """Free weights and cache of the copy during an update, which leaves the GPU's memory to training."""

    rollout_disable_mm_preprocessor_cache: bool = True
    """Keep no prepared images in CPU memory; only for vllm and prompts with images."""

    rollout_log_prob_micro_batch_size_per_gpu: int = Field(20, ge=1)
    """Completions per forward pass on one GPU when their probabilities are computed before the update."""

    rollout_val_n: int = Field(1, ge=1)
    """Completions to each prompt in a validation."""

    rollout_val_temperature: float = Field(0.0, ge=0)
    """Temperature in a validation; 0 takes the most probable token."""

    rollout_val_top_p: float = Field(1.0, gt=0, le=1)
    """As rollout_top_p, in a validation."""


class VerlReference(Group):
    """The model before training, with which the trained one is compared; with LoRA it is the same without adapter."""

    ref_log_prob_micro_batch_size_per_gpu: int = Field(20, ge=1)
    """Completions per forward pass of the reference on one GPU; with LoRA rollout_log_prob_… counts instead."""

    ref_fsdp_param_offload: bool = True
    """Move the reference's weights to CPU memory when they are not needed; with fsdp2 they always are there."""


class VerlAlgorithm(Group):
    """What makes a completion good."""

    algorithm_adv_estimator: Annotated[str, OneOf(ESTIMATORS), Renamed(instead=NOT_COMPUTED)] = "grpo"
    """How rewards become advantages; gae is PPO, with a critic: a second model that is trained to expect rewards."""

    algorithm_norm_adv_by_std_in_grpo: bool = True
    """Divide advantages by the standard deviation of the group, for grpo, grpo_vectorized and grpo_passk."""

    algorithm_gamma: float = Field(1.0, gt=0, le=1)
    """Discount of later rewards, for gae and reinforce_plus_plus."""

    algorithm_lam: float = Field(1.0, ge=0, le=1)
    """Between the critic's expectation (0) and the rewards themselves (1), for gae."""

    algorithm_use_kl_in_reward: bool = False
    """Subtract the divergence from the model before training from the rewards."""

    algorithm_kl_coef: float = Field(0.001, ge=0)
    """Weight of that divergence in the rewards."""

    critic_optim_lr: float = Field(1e-5, gt=0)
    """Learning rate of the critic."""

    critic_max_token_len_per_gpu: int = Field(32768, ge=1)
    """Tokens of the critic's forward pass on one GPU, completions with their prompts; at least one of the longest."""

    @property
    def with_critic(self) -> bool:
        """Whether a critic is trained."""
        return self.algorithm_adv_estimator == WITH_CRITIC


class VerlTrainer(Group):
    """GPUs, length of the training, checkpoints and validations."""

    trainer_n_gpus_per_node: int = Field(0, ge=0)
    """GPUs per node; 0: number_of_gpu_to_use_finetuning."""

    trainer_nnodes: int = Field(0, ge=0)
    """Nodes; 0: num_nodes_finetune."""

    trainer_total_epochs: int = Field(15, ge=1)
    """Passes over the training prompts; prompts of a pass that do not fill a step are left out."""

    total_training_steps: int = Field(0, ge=0)
    """Steps; 0: as many as the epochs have. The training also ends after trainer_total_epochs."""

    trainer_critic_warmup: int = Field(0, ge=0)
    """First step in which the model is trained; only the critic is before it; 0 and 1: from the first step."""

    trainer_save_freq: int = Field(20, ge=1)
    """Steps between checkpoints; the last step has one, too."""

    trainer_max_ckpt_to_keep: int = Field(0, ge=0)
    """Number of newest checkpoints to keep; 0 keeps all."""

    trainer_test_freq: int = Field(5, ge=-1)
    """Steps between validations; the last step has one, too; 0 or -1 makes none."""

    trainer_val_before_train: bool = True
    """Validate before the first step."""


class VerlTraining(VerlTrainer, VerlAlgorithm, VerlReference, VerlRollout, VerlActor, VerlData):
    """Everything that changes what verl computes."""

    def conflicts(self) -> Iterator[Problem]:
        """Refuse what verl would stop at in the first step, or silently not do."""
        groups = self.algorithm_adv_estimator in OF_GROUPS
        if groups and self.rollout_n < 2:
            yield Problem("PARAM-E0344", "rollout_n", f"1 with algorithm_adv_estimator={self.algorithm_adv_estimator}",
                          "at least 2", "set rollout_n=2 or more, or algorithm_adv_estimator=reinforce_plus_plus",
                          why="completions are compared with others to the same prompt")  # fmt: skip
        if self.trainer_critic_warmup and not self.with_critic:
            yield Problem("PARAM-E0345", "trainer_critic_warmup",
                          f"{self.trainer_critic_warmup} with algorithm_adv_estimator={self.algorithm_adv_estimator}",
                          f"algorithm_adv_estimator={WITH_CRITIC}",
                          f"leave it out, or set algorithm_adv_estimator={WITH_CRITIC}",
                          why="there is no critic, and verl would train nothing before that step")  # fmt: skip
        longest = self.data_max_prompt_length + self.data_max_response_length
        if self.with_critic and self.critic_max_token_len_per_gpu < longest:
            yield Problem("PARAM-E0346", "critic_max_token_len_per_gpu", str(self.critic_max_token_len_per_gpu),
                          f"at least {longest}, data_max_prompt_length + data_max_response_length",
                          f"set it to {longest} or more")  # fmt: skip


class VerlParams(VerlFiles, VerlEngine, VerlTraining):
    """All parameters of reinforcement learning with verl."""

    @property
    def rollout(self) -> str:
        """What writes completions: ENGINE, or rollout_name where ENGINE was left at its default."""
        usual = default_in(VerlEngine, "ENGINE")
        return self.rollout_name if self.ENGINE in (usual, TRL) else self.ENGINE

    @property
    def gpus_per_node(self) -> int:
        """GPUs of each node."""
        return self.trainer_n_gpus_per_node or getattr(self, "number_of_gpu_to_use_finetuning", 1)

    @property
    def nodes(self) -> int:
        """Nodes."""
        return self.trainer_nnodes or getattr(self, "num_nodes_finetune", 1)

    def conflicts(self) -> Iterator[Problem]:
        """Refuse two engines, and two numbers of GPUs or nodes."""
        if self.uses_verl and self.rollout_name not in (self.rollout, default_in(VerlRollout, "rollout_name")):
            yield Problem("PARAM-E0347", "ENGINE and rollout_name", f"{self.ENGINE} and {self.rollout_name}",
                          "one engine", "leave one of them out", why="each of them means the other")  # fmt: skip
        pairs = {
            "trainer_n_gpus_per_node": "number_of_gpu_to_use_finetuning",
            "trainer_nnodes": "num_nodes_finetune",
        }
        for name, ours in pairs.items():
            given, requested = getattr(self, name), getattr(self, ours, None)
            if given and requested is not None and given != requested:
                yield Problem("PARAM-E0348", f"{name} and {ours}", f"{given} and {requested}", "the same number",
                              f"set {ours}={given} and leave {name} out, or leave {name} out to use {requested}",
                              why="the task requests what the second one says")  # fmt: skip
