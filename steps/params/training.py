"""Optimizer, learning rate schedule, evaluation during training, checkpoints."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from steps.errors import Problem, nearest, shown
from steps.params.choice import OneOf, switch
from steps.params.group import Group, Renamed
from steps.params.metrics import STEERING

# Keys of model_args in other systems that have their own parameter here → what to do instead.
NO_MODEL_ARGS = {
    "dtype": "set precision",
    "torch_dtype": "set precision",
    "attn_implementation": "set attn_implementation",
    "revision": "set huggingface_revision",
    "trust_remote_code": "leave it out: code from model folders is never run",
    "device_map": "leave it out: the model is loaded on the task's GPU",
    "quantization_config": "set load_in_4bit or load_in_8bit, with apply_lora=true",
    "load_in_8bit": "set the parameter load_in_8bit, with apply_lora=true",
    "load_in_4bit": "set the parameter load_in_4bit, with apply_lora=true",
    "use_cache": "leave it out: training uses no cache",
}

# Names of data types → precision.
DTYPES = {"fp32": "32", "float32": "32", "bf16": "16", "bfloat16": "16", "fp16": "16", "float16": "16"}
SWITCHES = ("true", "false", "auto")  # of resume_from_checkpoint
SAVED_AS = ("checkpoint-", "global_step_")  # and the step: what the Trainer and verl call a checkpoint
# Other names of evaluation_strategy and its values; YAML reads a bare `no` as false.
STRATEGY_NAMES = Renamed(names=("eval_strategy",), values={"disable": "no", "false": "no"})
Scheduler = Annotated[
    Literal[
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
        "reduce_lr_on_plateau",
    ],
    Renamed(values={"": "linear"}),
]  # fmt: skip

# Optimizer → the package that provides it, if not torch or transformers.
OPTIMIZER_PACKAGES = {
    "ademamix": "bitsandbytes",
    "galore_adamw": "galore-torch",
    "grokadamw": "grokadamw",
    "schedule_free_sgd": "schedulefree",
}


class TrainingParams(Group):
    """Optimizer, batch, schedule and evaluation during training."""

    num_train_epochs: float = Field(1.0, gt=0)
    """Epochs: passes over the training rows."""

    max_steps: int = Field(-1, ge=-1)
    """Optimizer steps; a positive number overrides num_train_epochs."""

    per_device_train_batch_size: int = Field(1, ge=1)
    """Training sequences per device and forward pass."""

    per_device_eval_batch_size: int = Field(1, ge=1)
    """Sequences per device when evaluating and generating."""

    auto_find_batch_size: bool = False
    """Halve per_device_train_batch_size and double gradient_accumulation_steps until training fits into memory."""

    gradient_accumulation_steps: int = Field(1, ge=1)
    """Forward passes per optimizer step; multiplies the effective batch size at no memory cost."""

    learning_rate: float = Field(2e-5, gt=0)
    """Peak learning rate of the schedule."""

    lr_scheduler_type: Scheduler = "linear"
    """Learning rate schedule."""

    warmup_steps: int = Field(0, ge=0)
    """Steps of linear warmup from 0 to learning_rate."""

    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    """Share of all steps used for warmup from 0 to learning_rate; warmup_steps overrides it."""

    optim: Annotated[Literal[
        "adamw_hf", "adamw_torch", "adamw_torch_fused", "adafactor", "ademamix", "sgd", "adagrad", "rmsprop",
        "galore_adamw", "grokadamw", "schedule_free_sgd",
    ], Renamed(values={"adamw_hf": "adamw_torch", "": "adamw_torch"})] = "adamw_hf"  # fmt: skip
    """Optimizer; adamw_hf is the old name of adamw_torch."""

    weight_decay: float = Field(0.0, ge=0)
    """Weight decay, except for biases and normalisation layers."""

    neftune_noise_alpha: float = Field(0.0, ge=0)
    """Scale of the noise added to embeddings during training (NEFTune); 5 is typical, 0 adds none."""

    max_grad_norm: float = Field(1.0, ge=0)
    """Clip gradients to this norm; 0 does not clip."""

    precision: Annotated[Literal["32", "16"], Renamed(values=DTYPES)] = "32"
    """Floating-point bits: 16 trains in bfloat16 (float16 on GPUs without it) with 32-bit master weights."""

    gradient_checkpointing: Annotated[Literal["auto", "true", "false"], BeforeValidator(switch)] = "auto"
    """Recompute activations to save memory, 20% slower; auto does so only if the plan's estimate exceeds memory."""

    seed: int = Field(42, ge=0, lt=2**32)
    """Seed of the split, the row order, dropout and the adapter's initial weights."""

    determinism: Literal["no", "half", "full"] = "no"
    """Use deterministic operations: half warns where there is none, full fails."""

    attn_implementation: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention implementation for training; auto is the library's choice, flash_attention_2 needs a GPU."""

    model_args: dict[str, Any] = Field(default_factory=dict)
    """Changes to the model's configuration for training, as JSON, such as {"attention_dropout": 0.1}."""

    evaluation_strategy: Annotated[Literal["epoch", "steps", "no"], STRATEGY_NAMES] = "epoch"
    """When to evaluate the model and write a checkpoint."""

    eval_steps: int = Field(500, ge=1)
    """Steps between evaluations with evaluation_strategy=steps."""

    # A pipeline narrows the choice to the metrics of its task (`metrics.py`).
    metric_for_best_model: Annotated[str, OneOf(STEERING)] = "loss"
    """Metric on the validation rows that selects the best checkpoint, which is the result."""

    logging_strategy: Literal["steps", "epoch"] = "steps"
    """When to log loss and learning rate."""

    logging_steps: int = Field(10, ge=1)
    """Steps between log lines with logging_strategy=steps."""

    apply_early_stopping: bool = False
    """Stop when metric_for_best_model no longer improves."""

    early_stopping_patience: int = Field(1, ge=1)
    """Number of evaluations without improvement before training stops."""

    early_stopping_threshold: float = Field(0.0, ge=0)
    """Smallest change of the metric that counts as an improvement."""

    stop_on_loss_spike: bool = False
    """End with an error, not only a warning, when the loss was 5 times its running median for 20 steps."""

    def conflicts(self) -> Iterator[Problem]:
        """Refuse settings that need evaluations or 16-bit precision without having them."""
        when = self.named("evaluation_strategy")
        if self.apply_early_stopping and self.evaluation_strategy == "no":
            yield Problem("PARAM-E0204", "apply_early_stopping", f"true with {when}=no",
                          "evaluations during training", f"set {when} to epoch or steps")  # fmt: skip
        if self.attn_implementation == "flash_attention_2" and self.precision == "32":
            yield Problem("PARAM-E0215", "attn_implementation", "flash_attention_2 with precision=32", "precision=16",
                          "set precision=16, or attn_implementation=sdpa", why="it supports 16 bits only")  # fmt: skip
        for name, instead in NO_MODEL_ARGS.items():
            if name in self.model_args:
                yield Problem("PARAM-E0218", f"model_args.{name}", str(self.model_args[name]), "a value of the model's "
                              "configuration", instead)  # fmt: skip
        if self.lr_scheduler_type == "reduce_lr_on_plateau" and self.evaluation_strategy == "no":
            yield Problem("PARAM-E0212", "lr_scheduler_type", f"reduce_lr_on_plateau with {when}=no",
                          "evaluations during training", f"set {when} to epoch or steps")  # fmt: skip


class CheckpointParams(Group):
    """Checkpoints during training."""

    save_steps: int = Field(-1, ge=-1)
    """Steps between additional checkpoints; -1 writes one at each evaluation only."""

    save_minutes: float = Field(-1.0, ge=-1)
    """Minutes between checkpoints by time, of which only the newest is kept; -1 lets the plan choose, 0 makes none."""

    save_total_limit: int = Field(-1, ge=-1)
    """Number of checkpoints to keep, always including the best; -1 keeps all during training."""

    keep_checkpoints: Literal["auto", "true", "false"] = "auto"
    """Keep checkpoints after a successful training: auto keeps those of save_total_limit, and none if it is -1."""

    checkpoint_dir: str = ""
    """Object store (s3://, gs://, az://) or folder on a volume for checkpoints; empty: below the root of local runs."""

    resume_from_checkpoint: Annotated[str, BeforeValidator(switch), Renamed(values={"": "false"})] = "false"
    """Resume from the newest complete checkpoint of the same settings and data: true, false, or a checkpoint."""

    def conflicts(self) -> Iterator[Problem]:
        """Refuse a negative interval, and a value that is neither a switch nor the path or URI of a folder."""
        if -1 < self.save_minutes < 0:
            yield Problem("PARAM-E0223", "save_minutes", str(self.save_minutes), "minutes, 0 or -1",
                          "set it to -1, so that the plan chooses, or to 0 for none")  # fmt: skip
        value = self.resume_from_checkpoint
        if value not in SWITCHES and "/" not in value and not value.startswith(SAVED_AS):
            fix = nearest(value.lower(), SWITCHES) or "set it to true, or to the whole path of a checkpoint folder"
            yield Problem("PARAM-E0219", "resume_from_checkpoint", shown(value), "true, false, or the path of a "
                          "checkpoint folder", fix)  # fmt: skip
