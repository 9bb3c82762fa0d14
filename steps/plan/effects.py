"""Parameters that were set and have no effect in this run: each is named, with the reason.

Parameters that can only be a mistake are refused instead (`conflicts` of their group, `unfit` of a record). Those below
are often copied from file to file, so a run with them goes on. To add one: a row in IGNORED.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from steps.params.adapter_kinds import marks
from steps.params.compute import ComputeParams
from steps.params.data import TEMPLATE_TOKENS, DataSource
from steps.params.distributed import FsdpParams
from steps.params.lora import LoraParams
from steps.params.nodes import NodeParams, size_in_bytes
from steps.params.pipeline import SupervisedParameters
from steps.params.reading import default_of
from steps.params.splits import SPLITS
from steps.params.verl import VerlParams
from steps.params.verl_training import ONLY_CRITIC, WITHOUT_VERL
from steps.plan.generations import judged, rewarded
from steps.plan.hardware import NO_POOL, shared_memory
from steps.plan.seen import Seen, runs_here
from steps.plan.verl import asked
from steps.rewards.library import REWARDS
from steps.sources.data_sources import SUFFIXES, description, separate, suffix_of
from steps.tracking.target import target_of

WITHOUT_WARMUP = ("constant", "reduce_lr_on_plateau")
OF_DATASET = tuple(name for name in DataSource.model_fields if name.startswith("dataset_"))
POOLS = tuple(name for name in ComputeParams.model_fields if name.startswith("compute_"))


@dataclass(frozen=True)
class Ignored:
    """Parameters that have no effect under a condition."""

    names: tuple[str, ...]
    reason: Callable[[Seen, SupervisedParameters], str | None]
    """The reason, as it stands after a colon; None or empty if they have an effect."""


def effect_notes(seen: Seen) -> Iterator[str]:
    """Note each parameter that differs from its default and has no effect."""
    p = seen.parameters
    told: set[str] = set()
    for rule in IGNORED:
        asked = [name for name in rule.names if name not in told and is_set(seen, name)]
        if asked and (reason := rule.reason(seen, p)):
            told |= set(asked)
            yield from (f"{name} is ignored: {reason}" for name in asked)


def without_effect(seen: Seen) -> dict[str, str]:
    """Return each parameter, set or not, that has no effect in this run, with the reason."""
    found: dict[str, str] = {}
    for rule in IGNORED:
        if reason := rule.reason(seen, seen.parameters):
            found.update((name, reason) for name in rule.names if name not in found)
    return found


def is_set(seen: Seen, name: str) -> bool:
    """Return whether a parameter of the pipeline was given another value than its default."""
    fields = type(seen.parameters).model_fields
    if name not in fields:
        return False
    default = default_of(fields[name])
    asked: Any = seen.reading.requested.get(name, default)
    return asked != default and str(asked).lower() != str(default).lower()


def _without_adapter(seen: Seen, p: SupervisedParameters) -> str | None:
    return None if p.apply_lora else "apply_lora is false, so all weights are trained; set apply_lora=true to use it"


def _without_deepspeed(seen: Seen, p: SupervisedParameters) -> str | None:
    return None if p.apply_deepspeed else "apply_deepspeed is false"


def _one_process(seen: Seen, p: SupervisedParameters) -> str | None:
    return "one process trains" if p.devices == 1 else None


def _not_sharded(seen: Seen, p: SupervisedParameters) -> str | None:
    if p.apply_deepspeed:
        return "apply_deepspeed is true"
    return "distributed_strategy is ddp" if p.distributed_strategy == "ddp" else _one_process(seen, p)


def _without_dataset(seen: Seen, p: SupervisedParameters) -> str | None:
    return None if p.dataset_name else "dataset_name is empty"


def _overridden(seen: Seen, p: SupervisedParameters) -> str | None:
    """Files of the training rows override the data set; its other splits may still be read."""
    files = p.train_mltable_path or p.train_file_path
    return "the training rows are read from files" if files and p.dataset_name else None


def _all_splits_given(seen: Seen, p: SupervisedParameters) -> str | None:
    given = all(description(split, DataSource.of(p)) for split in SPLITS)
    return "every split is given, so no rows are held out" if given else None


def _no_file_ends(*formats: str) -> Callable[[Seen, SupervisedParameters], str | None]:
    def reason(seen: Seen, p: SupervisedParameters) -> str | None:
        """A folder or a pattern may hold any format, so only named files tell."""
        named = [
            uri for split in SPLITS for uri in separate(f"{split}_file_path", getattr(p, f"{split}_file_path") or "")
        ]
        tables = p.training_data or any(getattr(p, f"{split}_mltable_path") for split in SPLITS)
        known = {SUFFIXES.get(suffix_of(uri), "") for uri in named}
        if tables or not named or "" in known or known & set(formats):
            return None
        return f"no file is {' or '.join(formats)}"

    return reason


def _no_pool(seen: Seen, p: SupervisedParameters) -> str | None:
    return "no compute_* names a node pool" if all(getattr(p, name) in NO_POOL for name in POOLS) else None


def _no_nodes(seen: Seen, p: SupervisedParameters) -> str | None:
    return "num_nodes_finetune is 1" if p.num_nodes_finetune == 1 else None


def _fixed_shared_memory(seen: Seen, p: SupervisedParameters) -> str | None:
    """One node is the task's own pod, whose /dev/shm KFP fixes when it compiles; a smaller wish is fulfilled by it."""
    if p.num_nodes_finetune > 1:
        return None
    if runs_here():
        return "a local run has the /dev/shm of this machine"
    if not p.number_of_gpu_to_use_finetuning and not seen.parameters.processes_per_node > 1:
        return "one process needs no /dev/shm"
    given = shared_memory()
    return (
        None
        if size_in_bytes(p.shm_size_finetune) <= size_in_bytes(given)
        else (
            f"with one node /dev/shm has {given}, which shared_memory of the cluster profile fixes when it is compiled"
        )
    )


def _clips_nothing(seen: Seen, parameters: SupervisedParameters) -> str | None:
    p = rewarded(parameters)
    return f"loss_type={p.loss_type} clips no ratio" if p and p.loss.clips == "none" else None


def _clips_above(seen: Seen, parameters: SupervisedParameters) -> str | None:
    p = rewarded(parameters)
    above = p and p.loss.clips == "above" and p.epsilon_high != -1
    return f"loss_type={p.loss_type} clips at epsilon_high only" if p and above else None


def _without_vllm(seen: Seen, parameters: SupervisedParameters) -> str | None:
    p = rewarded(parameters)
    if p is None or p.use_vllm == "true":
        return None
    if p.use_vllm == "false":
        return "use_vllm is false"
    return None if p.number_of_gpu_to_use_finetuning else "no GPU is asked for"


def _no_own_reward(seen: Seen, parameters: SupervisedParameters) -> str | None:
    p = judged(parameters)
    return "no reward is a function of yours" if p and all(name in REWARDS for name in p.rewards) else None


def _no_split(seen: Seen, p: SupervisedParameters) -> str | None:
    """Where it names a file, in the pipeline that reads it as one, it has an effect."""
    named = getattr(p, "dataset_validation_split", "")
    return None if rewarded(p) and named == p.validation_file_path else _without_dataset(seen, p)


def _only_for_verl(name: str) -> Ignored:
    """Make the rule of a parameter that has an effect where verl trains."""
    return Ignored(
        (name,), lambda seen, p: WITHOUT_VERL[name] if isinstance(p, VerlParams) and not p.uses_verl else None
    )


def _no_critic(seen: Seen, p: SupervisedParameters) -> str | None:
    found = asked(p)
    return ONLY_CRITIC if found and not found.with_critic else None


def _no_tracking(seen: Seen, p: SupervisedParameters) -> str | None:
    return None if target_of(p).uri or runs_here() else "no MLflow server is named, so no metrics are sent"


# In the order in which they are told; the first reason of a parameter counts.
IGNORED: tuple[Ignored, ...] = (
    Ignored(tuple(name for name, mark in marks(LoraParams).items() if mark.without_adapter), _without_adapter),
    Ignored(("deepspeed",), lambda seen, p: None if p.deepspeed == "false" else _without_deepspeed(seen, p)),
    Ignored(("deepspeed_stage",), _without_deepspeed),
    Ignored(("distributed_strategy",), _one_process),
    Ignored(tuple(FsdpParams.model_fields), _not_sharded),
    Ignored(("warmup_ratio",), lambda seen, p: "warmup_steps overrides it" if p.warmup_steps else None),
    Ignored(
        ("warmup_steps", "warmup_ratio"),
        lambda seen, p: f"lr_scheduler_type={p.lr_scheduler_type} has no warmup"
        if p.lr_scheduler_type in WITHOUT_WARMUP else None,
    ),
    Ignored(("num_train_epochs",), lambda seen, p: "max_steps overrides it" if p.max_steps > 0 else None),
    Ignored(
        ("early_stopping_patience", "early_stopping_threshold"),
        lambda seen, p: None if p.apply_early_stopping else "apply_early_stopping is false",
    ),
    Ignored(
        ("stop_on_loss_spike",),
        lambda seen, p: "with rewards the loss is about zero, whatever is learned" if rewarded(p) else None,
    ),
    Ignored(
        ("eval_steps",),
        lambda seen, p: None if p.evaluation_strategy == "steps"
        else f"{p.named('evaluation_strategy')} is {p.evaluation_strategy}",
    ),
    Ignored(
        ("metric_for_best_model",),
        lambda seen, p: f"{p.named('evaluation_strategy')} is no, so the last checkpoint is the result"
        if p.evaluation_strategy == "no" else None,
    ),
    Ignored(
        ("logging_steps",),
        lambda seen, p: None if p.logging_strategy == "steps" else f"logging_strategy is {p.logging_strategy}",
    ),
    Ignored(
        ("registered_model_name", "registered_model_alias"),
        lambda seen, p: None if p.register_tuned_model else "register_tuned_model is false",
    ),
    Ignored(
        ("add_template_tokens",),
        lambda seen, p: None if p.chat_template in TEMPLATE_TOKENS else "chat_template is no built-in template",
    ),
    Ignored(
        ("huggingface_revision",), lambda seen, p: None if p.huggingface_id else "the model is not from the Hub"
    ),
    Ignored(
        tuple(name for name in OF_DATASET if name not in ("dataset_name", "dataset_validation_split")), _without_dataset
    ),
    Ignored(("dataset_validation_split",), _no_split),
    Ignored(("dataset_split",), _overridden),
    Ignored(("mixing_seed",), lambda seen, p: None if p.training_data else "training_data is empty"),
    Ignored(("split",), _all_splits_given),
    Ignored(("delimiter", "escapechar"), _no_file_ends("csv", "tsv")),
    Ignored(("json_field",), _no_file_ends("json")),
    Ignored(
        ("text_separator",),
        lambda seen, p: "ground_truth_key is empty" if getattr(p, "ground_truth_key", None) == "" else None,
    ),
    Ignored(("node_pool_label",), _no_pool),
    Ignored(("shm_size_finetune",), _fixed_shared_memory),
    Ignored(tuple(name for name in NodeParams.model_fields if name != "shm_size_finetune"), _no_nodes),
    Ignored(("experiment_name", "hf_mlflow_log_artifacts"), _no_tracking),
    Ignored(("deepspeed_config",), lambda seen, p: None if p.apply_deepspeed else "apply_deepspeed is false"),
    Ignored(("epsilon", "epsilon_high"), _clips_nothing),
    Ignored(("epsilon",), _clips_above),
    Ignored(("vllm_gpu_memory_utilization", "vllm_tensor_parallel_size"), _without_vllm),
    Ignored(("reward_timeout_seconds",), _no_own_reward),
    *(_only_for_verl(name) for name in WITHOUT_VERL),
    Ignored(("critic_optim_lr", "critic_max_token_len_per_gpu"), _no_critic),
)  # fmt: skip
