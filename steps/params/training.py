"""Optimizer, schedule, evaluation during training, checkpoints."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from steps.errors import Problem
from steps.params.choice import OneOf
from steps.params.group import Group, Renamed
from steps.params.metrics import STEERING

# What other systems put into model_args and has a place of its own here → what to do instead.
NO_MODEL_ARGS = {
    "dtype": "set precision",
    "torch_dtype": "set precision",
    "attn_implementation": "set attn_implementation",
    "revision": "set huggingface_revision",
    "trust_remote_code": "leave it out: no code from model folders is run",
    "device_map": "leave it out: the model lies on the GPU that the task has",
    "quantization_config": "set load_in_4bit or load_in_8bit, with apply_lora=true",
    "load_in_8bit": "set the parameter load_in_8bit, with apply_lora=true",
    "load_in_4bit": "set the parameter load_in_4bit, with apply_lora=true",
    "use_cache": "leave it out: training never caches",
}

# Optimizer → the package that has it, where that is not torch or transformers.
OPTIMIZER_PACKAGES = {
    "ademamix": "bitsandbytes",
    "galore_adamw": "galore-torch",
    "grokadamw": "grokadamw",
    "schedule_free_sgd": "schedulefree",
}


class TrainingParams(Group):
    """How the weights are changed."""

    num_train_epochs: float = Field(1.0, gt=0)
    """Passes over the training rows."""

    max_steps: int = Field(-1, ge=-1)
    """Optimizer steps; a positive number overrides num_train_epochs."""

    per_device_train_batch_size: int = Field(1, ge=1)
    """Training sequences per device and forward pass."""

    per_device_eval_batch_size: int = Field(1, ge=1)
    """Sequences per device when evaluating and generating."""

    auto_find_batch_size: bool = False
    """Halve per_device_train_batch_size until it fits into memory, and double gradient_accumulation_steps with it."""

    gradient_accumulation_steps: int = Field(1, ge=1)
    """Forward passes per optimizer step; multiplies the effective batch without memory."""

    learning_rate: float = Field(2e-5, gt=0)
    """Highest learning rate of the schedule."""

    lr_scheduler_type: Annotated[Literal[
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
        "inverse_sqrt", "reduce_lr_on_plateau",
    ], Renamed(values={"": "linear"})] = "linear"  # fmt: skip
    """Shape of the learning rate over the run."""

    warmup_steps: int = Field(0, ge=0)
    """Steps over which the learning rate climbs from 0."""

    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    """Share of all steps over which the learning rate climbs from 0; warmup_steps wins over it."""

    optim: Annotated[Literal[
        "adamw_hf", "adamw_torch", "adamw_torch_fused", "adafactor", "ademamix", "sgd", "adagrad", "rmsprop",
        "galore_adamw", "grokadamw", "schedule_free_sgd",
    ], Renamed(values={"adamw_hf": "adamw_torch", "": "adamw_torch"})] = "adamw_hf"  # fmt: skip
    """Optimizer; adamw_hf is the old name of adamw_torch and means the same."""

    weight_decay: float = Field(0.0, ge=0)
    """Decay of all weights but biases and normalisation layers."""

    neftune_noise_alpha: float = Field(0.0, ge=0)
    """Noise on the embeddings of training rows (NEFTune); 5 is usual, 0 adds none."""

    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients are scaled down to this norm; 0 leaves them alone."""

    precision: Literal["32", "16"] = "32"
    """Bits of the arithmetic: 16 trains in bfloat16 (float16 on GPUs without it) with 32-bit master weights."""

    gradient_checkpointing: Literal["auto", "true", "false"] = "auto"
    """Recompute activations to save memory, a fifth slower; auto does so only when the plan expects too little."""

    seed: int = Field(42, ge=0, lt=2**32)
    """Seed of the split, the row order, dropout and the adapter's first weights."""

    determinism: Literal["no", "half", "full"] = "no"
    """Refuse operations whose result changes from run to run: half warns where there is no other, full fails."""

    attn_implementation: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """How attention is computed while training; auto takes the library's choice, flash_attention_2 needs a GPU."""

    model_args: dict[str, Any] = Field(default_factory=dict)
    """Values of the model's configuration that the training changes, as JSON, such as {"attention_dropout": 0.1}."""

    evaluation_strategy: Annotated[
        Literal["epoch", "steps", "no"],
        Renamed(names=("eval_strategy",), values={"disable": "no", "false": "no"}),  # YAML reads a bare `no` as false
    ] = "epoch"
    """When the model is evaluated and a checkpoint is written."""

    eval_steps: int = Field(500, ge=1)
    """Steps between two evaluations with evaluation_strategy=steps."""

    # A pipeline narrows the choice to what its task can be judged by (`metrics.py`).
    metric_for_best_model: Annotated[str, OneOf(STEERING)] = "loss"
    """Metric on the validation rows that decides which checkpoint is the result."""

    logging_strategy: Literal["steps", "epoch"] = "steps"
    """When loss and learning rate are logged."""

    logging_steps: int = Field(10, ge=1)
    """Steps between two log lines with logging_strategy=steps."""

    apply_early_stopping: bool = False
    """Stop when metric_for_best_model no longer improves."""

    early_stopping_patience: int = Field(1, ge=1)
    """Evaluations without improvement after which training stops."""

    early_stopping_threshold: float = Field(0.0, ge=0)
    """Smallest change of the metric that counts as improvement."""

    def conflicts(self) -> Iterator[Problem]:
        """Stopping early needs something to look at."""
        if self.apply_early_stopping and self.evaluation_strategy == "no":
            yield Problem("PARAM-E0204", "apply_early_stopping", "true with evaluation_strategy=no",
                          "an evaluation to judge by", "set evaluation_strategy to epoch or steps")  # fmt: skip
        if self.attn_implementation == "flash_attention_2" and self.precision == "32":
            yield Problem("PARAM-E0215", "attn_implementation", "flash_attention_2 with precision=32", "16 bits",
                          "set precision=16, or attn_implementation=sdpa",
                          why="it computes in nothing else")  # fmt: skip
        for name, instead in NO_MODEL_ARGS.items():
            if name in self.model_args:
                yield Problem("PARAM-E0218", f"model_args.{name}", str(self.model_args[name]), "a value of the model's "
                              "configuration", instead)  # fmt: skip
        if self.lr_scheduler_type == "reduce_lr_on_plateau" and self.evaluation_strategy == "no":
            yield Problem("PARAM-E0212", "lr_scheduler_type", "reduce_lr_on_plateau with evaluation_strategy=no",
                          "an evaluation that it can look at", "set evaluation_strategy to epoch or steps")  # fmt: skip


class CheckpointParams(Group):
    """What is kept of an unfinished training."""

    save_steps: int = Field(-1, ge=-1)
    """Write a checkpoint every so many steps too; -1 writes one at each evaluation only."""

    save_total_limit: int = Field(-1, ge=-1)
    """Checkpoints that are kept (the best one always is); -1 keeps all."""

    checkpoint_dir: str = ""
    """Folder on a volume that outlives the pod; local runs keep checkpoints under the run's root when empty."""

    resume_from_checkpoint: str = "false"
    """Go on from the newest whole checkpoint of the same settings and data: true, false, or a checkpoint folder."""
