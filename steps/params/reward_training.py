"""Training with rewards: the method, the completions that the model writes, and how far an update may go."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from steps.errors import Problem
from steps.kinds.method import Loss, Method
from steps.kinds.methods import METHODS, REWARD_METHODS
from steps.kinds.methods.grpo import METHOD as GRPO
from steps.params.choice import OneOf, switch
from steps.params.group import Group


class Completions(Group):
    """How completions are written during training and evaluation."""

    num_generations: int = Field(4, ge=2)
    """Completions to each prompt, a group; a completion counts as good if it beats the mean of its group."""

    max_prompt_length: int = Field(512, ge=1)
    """Maximum prompt length in tokens; the start is truncated, or the row left out with length_handling=filter."""

    max_completion_length: int = Field(256, ge=1)
    """Maximum length of a completion in tokens."""

    temperature: float = Field(1.0, ge=1e-4)
    """Temperature of sampling: less than 1 prefers probable tokens more."""

    top_p: float = Field(1.0, gt=0, le=1)
    """Sample from the most probable tokens whose probabilities reach this sum; 1 samples from all."""

    top_k: int = Field(0, ge=0)
    """Sample from this many of the most probable tokens; 0 samples from all."""

    repetition_penalty: float = Field(1.0, gt=0)
    """Divide the logits of tokens that the text has already by this number; 1 does not."""


class VllmParams(Group):
    """Where completions are written during training."""

    use_vllm: Annotated[Literal["auto", "true", "false"], BeforeValidator(switch)] = "auto"
    """Write completions with vLLM in the training's own processes; auto: with a GPU where vLLM is installed."""

    vllm_gpu_memory_utilization: float = Field(0.3, gt=0, lt=1)
    """Share of each GPU's memory for vLLM's weights and cache."""

    vllm_tensor_parallel_size: int = Field(1, ge=1)
    """GPUs that share one vLLM engine; a divisor of the number of training processes."""


class RewardTraining(VllmParams, Completions):
    """Method and loss of training with rewards."""

    method: Annotated[str, OneOf(REWARD_METHODS)] = "grpo"
    """Method: grpo (group relative policy optimisation) or rloo (REINFORCE leave-one-out)."""

    loss_type: Annotated[str, OneOf(tuple(GRPO.losses))] = "dapo"
    """Loss of grpo as in TRL; dapo weights every token alike, whatever the number of processes."""

    beta: float = Field(0.04, ge=0)
    """Weight of the KL divergence from the model before training; 0 leaves it out and saves the reference's work."""

    num_iterations: int = Field(5, ge=1)
    """Optimizer steps with the same completions."""

    epsilon: float = Field(0.5, gt=0)
    """How far a token's probability may fall from that when it was written: the ratio is clipped at 1 - epsilon."""

    epsilon_high: float = Field(-1.0, ge=-1)
    """The ratio is clipped at 1 + epsilon_high; -1 uses epsilon."""

    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Divide advantages by the standard deviation of the rewards: of the group, of the batch, or not; for grpo."""

    importance_sampling_level: Literal["token", "sequence"] = "token"
    """Whether ratios are of tokens or of whole completions (GSPO); for grpo."""

    normalize_advantages: bool = False
    """Divide advantages by the standard deviation over the batch; for rloo."""

    mask_truncated_completions: bool = False
    """Learn nothing from completions that reach max_completion_length."""

    steps_per_generation: int = Field(0, ge=0)
    """Forward passes on each device between generations; 0: gradient_accumulation_steps, one optimizer step."""

    shuffle_dataset: bool = True
    """Draw the prompts in random order; false takes them in the order of the rows."""

    use_liger_kernel: bool = False
    """Use fused layers of Liger Kernel, which saves memory on a GPU; needs the package liger-kernel in the image."""

    do_eval: bool = False
    """Evaluate on the validation rows once, at the end; evaluations during training need no do_eval."""

    num_completions_to_print: int = Field(2, ge=0)
    """Completions that are printed in each evaluation and log line; all of them are in the result's table."""

    @property
    def learning(self) -> Method:
        """The record of the method."""
        return METHODS[self.method]

    @property
    def loss(self) -> Loss:
        """The record of the loss."""
        return self.learning.losses.get(self.loss_type, Loss())

    def passes(self, accumulation: int) -> int:
        """Return the forward passes on each device between generations, if an optimizer step has `accumulation`."""
        return self.steps_per_generation or accumulation

    def conflicts(self) -> Iterator[Problem]:
        """Refuse losses and levels that do not fit, and parameters that the method would ignore."""
        level = self.importance_sampling_level
        if self.loss.level not in ("", level):
            yield Problem("PARAM-E0333", "importance_sampling_level", f"{level} with loss_type={self.loss_type}",
                          self.loss.level, f"set importance_sampling_level={self.loss.level}")  # fmt: skip
        if -1 < self.epsilon_high < 0:
            yield Problem("PARAM-E0334", "epsilon_high", str(self.epsilon_high), "a number above 0, or -1",
                          "set it to -1 to use epsilon")  # fmt: skip
        fields = RewardTraining.model_fields
        for name in sorted({parameter for other in REWARD_METHODS for parameter in METHODS[other].reads}):
            value = getattr(self, name)
            if name not in self.learning.reads and value != fields[name].default:
                takers = ", or ".join(f"method={other}" for other in REWARD_METHODS if name in METHODS[other].reads)
                yield Problem("PARAM-E0335", name, f"{str(value).lower()} with method={self.method}", takers,
                              "leave it out, or change method",
                              why=f"{name} has no effect for {self.method}")  # fmt: skip
