"""The arithmetic of a training with verl: prompts, completions and updates of a step, and what verl would stop at.

verl 0.9.1 counts in three units: prompts (data_train_batch_size, actor_ppo_mini_batch_size), completions on one GPU
(the micro-batches), and steps. Most of what it asserts, it asserts on the GPUs, after minutes. What follows is for its
configuration `ppo_trainer` with FSDP: every GPU has its own share of each batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from steps.errors import Problem
from steps.params.divisible import divisors_near, either, multiples_near
from steps.params.verl import LARGEST_RANK, TRL, VerlParams
from steps.plan.seen import Seen, runs_here


def asked(parameters: object) -> VerlParams | None:
    """Return the parameters if verl trains with them; else None."""
    return parameters if isinstance(parameters, VerlParams) and parameters.uses_verl else None


@dataclass(frozen=True)
class Step:
    """What one step of verl writes and learns."""

    gpus: int
    """GPUs on all nodes."""
    prompts: int
    completions: int
    """Completions of a step."""
    updates: int
    """Mini-batches of a step, each of which changes the weights; as many again in every further epoch of PPO."""
    of_update: int
    """Completions of an update."""
    filled: int
    """Completions of a step with the empty ones that verl adds, so that all mini-batches are whole."""

    @classmethod
    def of(cls, p: VerlParams) -> Step:
        """Compute the figures; GPUs count as 1 where there are none."""
        completions = p.data_train_batch_size * p.rollout_n
        of_update = p.actor_ppo_mini_batch_size * p.rollout_n
        gpus = max(1, p.gpus_per_node * p.nodes)
        # verl.trainer.ppo.v1.trainer_base: PPOTrainer._get_required_batch_multiple; a critic has the same mini-batches.
        whole = math.lcm(gpus, of_update)
        filled = -(-completions // whole) * whole
        return cls(gpus, p.data_train_batch_size, completions, filled // of_update, of_update, filled)

    @property
    def on_gpu(self) -> int:
        """Completions of a step on each GPU, rounded down."""
        return self.filled // self.gpus

    @property
    def of_update_on_gpu(self) -> int:
        """Completions of an update on each GPU, rounded down."""
        return self.of_update // self.gpus


def steps_of(p: VerlParams, rows: int) -> tuple[int, int]:
    """Return the steps of an epoch over `rows` prompts, and of the whole training.

    As verl.trainer.ppo.v1.trainer_base counts them: PPOTrainer._create_dataloader drops the last prompts of an epoch,
    and PPOTrainer.fit ends after total_training_steps or after the epochs, whichever comes first.
    """
    per_epoch = rows // p.data_train_batch_size
    most = per_epoch * p.trainer_total_epochs
    return per_epoch, min(p.total_training_steps, most) if p.total_training_steps else most


def table(p: VerlParams, rows: int | None, learned: str) -> list[dict[str, Any]]:
    """Return rows of {name, value, how}; `rows` is the number of training prompts, None if it is not known yet.

    `learned` says which of the given rows they are.
    """
    step = Step.of(p)
    empty = step.filled - step.completions
    filled = f"; {empty} empty ones fill the last update" if empty else ""
    epochs = f" × {p.actor_ppo_epochs} epochs of PPO" if p.actor_ppo_epochs > 1 else ""
    micro = p.actor_ppo_micro_batch_size_per_gpu
    nodes = f" × {p.nodes} nodes" if p.nodes > 1 else ""
    lines: list[dict[str, Any]] = [
        {"name": "longest sequence", "value": p.data_max_prompt_length + p.data_max_response_length,
         "how": f"tokens: a prompt of {p.data_max_prompt_length} and a completion of {p.data_max_response_length}"},
        {"name": "GPUs", "value": step.gpus, "how": f"{p.gpus_per_node} per node{nodes}, "
         f"{p.rollout_tensor_model_parallel_size} for each copy that writes completions"},
        {"name": "prompts per step", "value": step.prompts, "how": "data_train_batch_size"},
        {"name": "completions per step", "value": step.completions,
         "how": f"{step.prompts} prompts × {p.rollout_n} each{filled}"},
        {"name": "completions per GPU and step", "value": step.on_gpu, "how": f"{step.filled} / {step.gpus} GPUs"},
        {"name": "updates per step", "value": step.updates * p.actor_ppo_epochs,
         "how": f"{step.prompts} prompts / {p.actor_ppo_mini_batch_size} per mini-batch{epochs}"},
        {"name": "completions per update", "value": step.of_update,
         "how": f"{p.actor_ppo_mini_batch_size} prompts × {p.rollout_n} each"},
        {"name": "micro-batches per GPU", "value": -(-step.of_update_on_gpu // micro),
         "how": f"of an update: {step.of_update_on_gpu} completions on each GPU / {micro} at a time"},
    ]  # fmt: skip
    if rows is None:
        steps = p.total_training_steps or "known after prepare_data"
        how = "total_training_steps, if the epochs have as many" if p.total_training_steps else "rows are not counted"
        return [*lines, {"name": "steps", "value": steps, "how": how},
                {"name": "optimizer steps", "value": "known after prepare_data", "how": how}]  # fmt: skip
    per_epoch, steps = steps_of(p, rows)
    over = rows - per_epoch * step.prompts
    left = f"; {over} of an epoch left out, as they fill no step" if over else ""
    by_epochs = f"{per_epoch} per epoch × {p.trainer_total_epochs} epochs"
    rule = by_epochs if not p.total_training_steps else f"total_training_steps, of {by_epochs}"
    return [
        *lines,
        {"name": "training rows", "value": rows, "how": f"{learned}{left}"},
        {"name": "steps per epoch", "value": per_epoch, "how": f"{rows} rows / {step.prompts} prompts"},
        {"name": "steps", "value": steps, "how": rule},
        {"name": "optimizer steps", "value": steps * step.updates * p.actor_ppo_epochs,
         "how": f"{steps} steps × {step.updates * p.actor_ppo_epochs} updates"},
        {"name": "completions in all", "value": steps * step.completions,
         "how": f"{steps:,} steps; {steps * step.prompts:,} prompts, repeated ones counted each time"},
    ]  # fmt: skip


def verl_problems(seen: Seen) -> Iterator[Problem]:
    """Refuse what verl would stop at, as far as parameters and model tell."""
    if p := asked(seen.parameters):
        yield from size_problems(p)
        yield from length_problems(p, seen.positions)


def packages_of_verl(parameters: object) -> Iterator[tuple[str, str, str, str]]:
    """Yield (parameter, its value, the package it needs, what to do without it)."""
    if (p := asked(parameters)) and runs_here():
        yield "ENGINE", p.rollout, "verl", "set ENGINE=trl, or run it on a cluster (the image verl)"


def size_problems(p: VerlParams) -> Iterator[Problem]:
    """Refuse GPUs, batches and ranks that verl cannot work with; the fix names the nearest values that it can."""
    if gpus := list(_gpu_problems(p)):  # without the right number of GPUs, no other number can be judged
        yield from gpus
        return
    yield from _batch_problems(p)
    yield from _micro_batch_problems(p)
    rank = p.actor_model_lora_rank
    # verl.workers.rollout.vllm_rollout.utils: get_vllm_max_lora_rank
    if rank > LARGEST_RANK and p.rollout == "vllm":
        yield Problem("PLAN-E0535", "actor_model_lora_rank", str(rank), f"at most {LARGEST_RANK}",
                      f"set it to {LARGEST_RANK} or less, or to 0 to train every weight",
                      why="vLLM writes completions with no larger adapter")  # fmt: skip


def _gpu_problems(p: VerlParams) -> Iterator[Problem]:
    per_node, parallel = p.gpus_per_node, p.rollout_tensor_model_parallel_size
    name = "trainer_n_gpus_per_node" if p.trainer_n_gpus_per_node else "number_of_gpu_to_use_finetuning"
    if per_node < 1:
        yield Problem("PLAN-E0531", name, f"{per_node} with ENGINE={p.rollout}", "at least 1",
                      f"set {name} to the GPUs of a node, or ENGINE=trl to train a small model on CPUs",
                      why="verl writes completions on GPUs only")  # fmt: skip
        return
    # verl.workers.engine_workers: ActorRolloutRefWorker.init_model, and verl.workers.rollout.replica for several nodes.
    whole_nodes = parallel % per_node == 0 and (per_node * p.nodes) % parallel == 0
    if per_node % parallel and not whole_nodes:
        more = multiples_near(per_node, 1, parallel)[-1]
        fewer = max(count for count in range(1, min(parallel, per_node) + 1) if per_node % count == 0)
        yield Problem("PLAN-E0532", "rollout_tensor_model_parallel_size",
                      f"{parallel} with {name}={per_node}", "a divisor of the GPUs per node",
                      f"set rollout_tensor_model_parallel_size={fewer}, or {name}={more} on a machine that has them",
                      why="so many GPUs share one copy of the model that writes completions")  # fmt: skip


def _batch_problems(p: VerlParams) -> Iterator[Problem]:
    step, train, mini = Step.of(p), p.data_train_batch_size, p.actor_ppo_mini_batch_size
    # verl.workers.config.actor: ActorConfig.validate
    if train < mini:
        yield Problem("PLAN-E0533", "actor_ppo_mini_batch_size", f"{mini} with data_train_batch_size={train}",
                      f"at most {train}", f"set actor_ppo_mini_batch_size to {train} or less, or "
                      f"data_train_batch_size to {mini} or more",
                      why="a step is divided into mini-batches")  # fmt: skip
    why = "each GPU gets as many completions"
    # verl.workers.engine_workers: TrainingWorker.train_mini_batch
    if step.of_update % step.gpus:
        near = multiples_near(mini, p.rollout_n, step.gpus)
        yield Problem("PLAN-E0534", "actor_ppo_mini_batch_size",
                      f"{mini} × rollout_n={p.rollout_n} = {step.of_update} completions for {step.gpus} GPUs",
                      f"a multiple of {step.gpus}", f"set actor_ppo_mini_batch_size to {either(near)}",
                      why=why)  # fmt: skip
    # verl.utils.config: validate_config
    if step.completions % step.gpus:
        near = multiples_near(train, p.rollout_n, step.gpus)
        yield Problem("PLAN-E0536", "data_train_batch_size",
                      f"{train} × rollout_n={p.rollout_n} = {step.completions} completions for {step.gpus} GPUs",
                      f"a multiple of {step.gpus}", f"set data_train_batch_size to {either(near)}",
                      why=why)  # fmt: skip


def _micro_batch_problems(p: VerlParams) -> Iterator[Problem]:
    """Refuse micro-batches that leave a rest (verl.workers.engine.utils: prepare_micro_batches)."""
    step = Step.of(p)
    if step.of_update % step.gpus:
        return  # told above; the share of a GPU is not known before it is corrected
    shares = {"actor_ppo_micro_batch_size_per_gpu": (step.of_update_on_gpu, "an update"),
              "rollout_log_prob_micro_batch_size_per_gpu": (step.on_gpu, "a step")}  # fmt: skip
    # With an adapter, the reference is the trained model without it, in the micro-batches of rollout_log_prob_…
    if (p.actor_use_kl_loss or p.algorithm_use_kl_in_reward) and not p.actor_model_lora_rank:
        shares["ref_log_prob_micro_batch_size_per_gpu"] = (step.on_gpu, "a step")
    for name, (share, what) in shares.items():
        size = getattr(p, name)
        if share % size:
            yield Problem("PLAN-E0537", name, f"{size} with {share} completions of {what} on each GPU",
                          f"a divisor of {share}", f"set {name} to {either(divisors_near(share, size))}",
                          why="verl's micro-batches are all of one size")  # fmt: skip


def length_problems(p: VerlParams, positions: int | None) -> Iterator[Problem]:
    """Refuse prompts and completions that together exceed the model's positions."""
    longest = p.data_max_prompt_length + p.data_max_response_length
    if not positions or longest <= positions:
        return
    room = positions - p.data_max_response_length
    fix = f"set data_max_prompt_length to at most {room}, or lower data_max_response_length"
    yield Problem("PLAN-E0538", "data_max_prompt_length and data_max_response_length",
                  f"{p.data_max_prompt_length} + {p.data_max_response_length} = {longest} tokens",
                  f"at most {positions}, the model's number of positions",
                  fix if room > 0 else f"lower both, data_max_response_length below {positions}")  # fmt: skip


def row_problems(p: VerlParams, rows: int | None, where: str) -> Iterator[Problem]:
    """Refuse rows that fill no step, and steps that the training would not reach; `where` names the rows.

    `rows` are those for training, None if they are not counted yet.
    """
    if rows is None:
        return
    per_epoch, steps = steps_of(p, rows)
    # verl.trainer.ppo.v1.trainer_base: PPOTrainer.fit divides by the steps of an epoch.
    if per_epoch == 0:
        fits = [size for size in multiples_near(rows, p.rollout_n, Step.of(p).gpus) if size <= rows]
        lower = f", or lower data_train_batch_size, and with it actor_ppo_mini_batch_size, to {fits[0]}" if fits else ""
        yield Problem("PLAN-E0539", where, f"{rows} row{'s' if rows != 1 else ''} for training",
                      f"at least {p.data_train_batch_size}, data_train_batch_size",
                      f"add rows{lower}", why="prompts that fill no step are left out")  # fmt: skip
        return
    # PPOTrainer.fit writes the last checkpoint at step total_training_steps, and no other step is the last one.
    if p.total_training_steps > steps:
        epochs = -(-p.total_training_steps // per_epoch)
        yield Problem("PLAN-E0540", "total_training_steps",
                      f"{p.total_training_steps}, and {steps} in trainer_total_epochs={p.trainer_total_epochs}",
                      f"at most {steps}", f"set trainer_total_epochs={epochs}, or leave total_training_steps out",
                      why="verl would end with the epochs, without the last checkpoint")  # fmt: skip
    elif p.trainer_critic_warmup > steps:
        yield Problem("PLAN-E0541", "trainer_critic_warmup", f"{p.trainer_critic_warmup} of {steps} steps",
                      f"at most {steps}", "lower it, or train longer",
                      why="the model itself would not be trained")  # fmt: skip


def verl_notes(seen: Seen) -> Iterator[str]:
    """Warn of what has no effect in verl, and of values with which trainings often go wrong."""
    p = seen.parameters
    if found := asked(p):
        yield from notes(found)
    elif isinstance(p, VerlParams) and not runs_here():
        yield (f"ENGINE={TRL}: the image of finetune must have TRL, which that of verl does not: name the train image "
               "in the cluster's profile (images.verl)")  # fmt: skip


def notes(p: VerlParams) -> Iterator[str]:
    """Warn of parameters without effect beside others, and of mini-batches that are not whole."""
    step = Step.of(p)
    if empty := step.filled - step.completions:
        yield (f"data_train_batch_size={p.data_train_batch_size} is no multiple of actor_ppo_mini_batch_size="
               f"{p.actor_ppo_mini_batch_size}: verl fills the last update of each step with {empty} empty "
               "completions, which cost time and teach nothing")  # fmt: skip
    if p.actor_strategy == "fsdp" and p.actor_fsdp_config_offload_policy:
        yield ("actor_fsdp_config_offload_policy=true has no effect with actor_strategy=fsdp: set "
               "actor_fsdp_param_offload and actor_fsdp_optimizer_offload, or actor_strategy=fsdp2")  # fmt: skip
    if p.actor_strategy == "fsdp2" and p.actor_fsdp_config_offload_policy:
        for name in ("actor_fsdp_param_offload", "actor_fsdp_optimizer_offload"):
            if getattr(p, name):
                yield f"{name}=true has no effect: with actor_fsdp_config_offload_policy=true all is in CPU memory"
    if p.actor_use_kl_loss and p.algorithm_use_kl_in_reward:
        yield ("actor_use_kl_loss and algorithm_use_kl_in_reward are both true: the divergence from the model before "
               "training counts twice")  # fmt: skip
