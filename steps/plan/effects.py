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
from steps.params.lora import LoraParams
from steps.params.pipeline import SupervisedParameters
from steps.params.reading import default_of
from steps.params.splits import SPLITS
from steps.plan.hardware import NO_POOL
from steps.plan.seen import Seen, runs_here
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


def _no_tracking(seen: Seen, p: SupervisedParameters) -> str | None:
    return None if target_of(p).uri or runs_here() else "no MLflow server is named, so no metrics are sent"


# In the order in which they are told; the first reason of a parameter counts.
IGNORED: tuple[Ignored, ...] = (
    Ignored(tuple(name for name, mark in marks(LoraParams).items() if mark.without_adapter), _without_adapter),
    Ignored(("deepspeed",), lambda seen, p: None if p.deepspeed == "false" else _without_deepspeed(seen, p)),
    Ignored(("deepspeed_stage",), _without_deepspeed),
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
        ("eval_steps",),
        lambda seen, p: None if p.evaluation_strategy == "steps" else f"evaluation_strategy is {p.evaluation_strategy}",
    ),
    Ignored(
        ("metric_for_best_model",),
        lambda seen, p: "evaluation_strategy is no, so the last checkpoint is the result"
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
    Ignored(tuple(name for name in OF_DATASET if name != "dataset_name"), _without_dataset),
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
    Ignored(("experiment_name", "hf_mlflow_log_artifacts"), _no_tracking),
)  # fmt: skip
