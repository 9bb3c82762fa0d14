"""GRPO and RLOO with TRL: the model writes completions, and learns from those whose rewards are above their group's.

What the project does itself, such as writing, rewards and resuming, is in `steps/finetune/rewarded/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import trl.trainer.grpo_trainer
import trl.trainer.rloo_trainer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer  # type: ignore[attr-defined]

from steps.errors import Problem, UserError
from steps.finetune.arguments import training_arguments
from steps.finetune.loading import load_model
from steps.finetune.quantising import with_exact_adapter
from steps.finetune.rewarded import vllm_writing
from steps.finetune.rewarded.prompts import columns_in, read_prompts
from steps.finetune.rewarded.rewarding import Rewarding
from steps.finetune.rows import Together
from steps.finetune.run import Run
from steps.finetune.trainers.trl_inputs import trl_inputs
from steps.launch.group import current
from steps.rewards.asked import load_asked


class RewardedGRPOTrainer(Rewarding, Together, GRPOTrainer):
    """GRPOTrainer with the project's completions and rewards."""

    takes_logprobs = True


class RewardedRLOOTrainer(Rewarding, Together, RLOOTrainer):
    """RLOOTrainer with the project's completions and rewards."""

    takes_logprobs = False


def build_grpo(run: Run) -> Any:
    """Build the GRPO trainer, after its rewards and their columns. Raises UserError for these, before any model."""
    asked, _ = run.settings.asked_rewards
    return _build(
        run,
        RewardedGRPOTrainer,
        GRPOConfig,
        trl.trainer.grpo_trainer,
        loss_type=asked.loss_type,
        scale_rewards=asked.scale_rewards,
        importance_sampling_level=asked.importance_sampling_level,
    )


def build_rloo(run: Run) -> Any:
    """Build the RLOO trainer; raises as `build_grpo`."""
    asked, _ = run.settings.asked_rewards
    return _build(
        run,
        RewardedRLOOTrainer,
        RLOOConfig,
        trl.trainer.rloo_trainer,
        normalize_advantages=asked.normalize_advantages,
    )


def _build(run: Run, trainer: Any, config: Any, module: ModuleType, **own: Any) -> Any:
    settings = run.settings
    asked, judging = settings.asked_rewards
    splits = {"train": read_prompts(run.data, "train")}
    if settings.training.evaluation_strategy != "no" or asked.do_eval:
        splits["validation"] = read_prompts(run.data, "validation")
    _refuse_other_numbers(run, len(splits["train"]))
    rewards = load_asked(judging)
    columns = columns_in(*splits.values())
    rewards.check_columns(columns)
    chosen = vllm_writing.by_vllm(settings)
    model = load_model(run.model, settings)
    engine = vllm_writing.arguments(settings, model) if chosen else {"use_vllm": False}
    arguments = config(**_arguments(run), **engine, reward_weights=rewards.weights, **own)
    with _reference_from(module, run), vllm_writing.made_by(module, settings):
        inputs = {**trl_inputs(run, model, splits.__getitem__), "eval_dataset": splits.get("validation")}
        made = trainer(run, rewards, columns, args=arguments, **inputs)
    return with_exact_adapter(made, settings)


def _arguments(run: Run) -> dict[str, Any]:
    """Return what both trainers are told; nothing that shapes the result is left to TRL's defaults."""
    asked, _ = run.settings.asked_rewards
    above = asked.epsilon if asked.epsilon_high == -1 else asked.epsilon_high
    return {
        **training_arguments(run.settings, run.checkpoints),
        "num_generations": asked.num_generations,
        "num_generations_eval": asked.num_generations,
        "max_completion_length": asked.max_completion_length,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": asked.top_k,
        "min_p": None,
        "repetition_penalty": asked.repetition_penalty,
        "steps_per_generation": _passes(run),
        "shuffle_dataset": asked.shuffle_dataset,
        "beta": asked.beta,
        "num_iterations": asked.num_iterations,
        "epsilon": asked.epsilon,
        # A loss that clips above only takes the ratio itself in TRL (cispo), and not what is above 1.
        "epsilon_high": 1 + above if asked.loss.clips == "above" else above,
        "mask_truncated_completions": asked.mask_truncated_completions,
        # Ratios are of probabilities before and after an update; dropout would change them as well.
        "disable_dropout": True,
        "sync_ref_model": False,
        "use_liger_kernel": asked.use_liger_kernel,
        "remove_unused_columns": False,
        "log_completions": False,  # the project's own table has them
    }


def _passes(run: Run) -> int:
    """Return the forward passes on each device between generations."""
    asked, _ = run.settings.asked_rewards
    return asked.passes(run.settings.training.gradient_accumulation_steps)


def _refuse_other_numbers(run: Run, prompts: int) -> None:
    """Raise UserError if groups do not fill the batches, or if there are too few prompts for one of them."""
    asked, training = run.settings.asked_rewards[0], run.settings.training
    evaluates = training.evaluation_strategy != "no" or asked.do_eval
    group, processes = asked.num_generations, current().count
    batch = training.per_device_train_batch_size * processes * _passes(run)
    evaluation = training.per_device_eval_batch_size * processes
    problems = []
    if batch % group:
        problems.append(
            Problem("TRAIN-E0222", "per_device_train_batch_size", f"{batch} completions between updates of the model "
                    f"that writes them ({training.per_device_train_batch_size} × {processes} processes × "
                    f"{_passes(run)} forward passes)", f"a multiple of num_generations={group}",
                    f"change per_device_train_batch_size, or set num_generations to a divisor of {batch}",
                    why="completions are compared within groups")
        )  # fmt: skip
    elif prompts < batch // group:
        problems.append(
            Problem("TRAIN-E0223", "the training rows", f"{prompts} prompts", f"at least {batch // group}, for one "
                    f"batch of {batch} completions", "add rows, or lower per_device_train_batch_size, "
                    "gradient_accumulation_steps or steps_per_generation")
        )  # fmt: skip
    if evaluates and evaluation % group:
        problems.append(
            Problem("TRAIN-E0224", "per_device_eval_batch_size", f"{evaluation} completions in a batch over all "
                    "processes", f"a multiple of num_generations={group}", "change per_device_eval_batch_size")
        )  # fmt: skip
    if problems:
        raise UserError(problems)


@contextmanager
def _reference_from(module: ModuleType, run: Run) -> Iterator[None]:
    """Let TRL load its reference as the model itself is loaded, with the user's changes of the configuration.

    TRL (1.16) loads it by the name in the model's configuration, and has no argument for another one.
    """
    before = module.create_model_from_path
    module.create_model_from_path = lambda *_, **__: load_model(run.model, run.settings)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.create_model_from_path = before  # type: ignore[attr-defined]
