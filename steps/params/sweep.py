"""What a sweep adds to the parameters of its pipeline: the trials, and how the best one is found."""

import hashlib
import json
import re
from typing import Any, Literal, get_args

from pydantic import Field, field_validator

from steps.params.compute import ComputeParams
from steps.params.group import Group
from steps.params.registration import RegistrationParams, TrackingParams
from steps.params.training import CheckpointParams

# Groups of parameters, and single ones, that cannot differ between the trials of a sweep, with the reason.
_ALIKE: dict[type[Group], str] = {
    ComputeParams: "all trials of a sweep request the same machines",
    RegistrationParams: "only the best trial is registered",
    TrackingParams: "the trials of a sweep are tracked together",
    CheckpointParams: "checkpoints do not change what a trial learns, and each trial has its own",
}
_ALIKE_TOO = {
    "overrides": "a trial names its parameters itself",
    "huggingface_token_secret": "all trials of a sweep have the same secrets",
    "trust_remote_code": "code from model folders is never run",
    **dict.fromkeys(
        ("gate_metric", "gate_min_value", "gate_max_value", "gate_must_beat_base"),
        "the gate judges only the best trial",
    ),
    **dict.fromkeys(
        (
            "evaluation_max_rows",
            "evaluation_max_new_tokens",
            "evaluation_config",
            "evaluation_config_params",
            "reward_funcs",
            "reward_weights",
            "reward_options",
        ),
        "trials that are measured in different ways cannot be compared",
    ),
    **dict.fromkeys(
        (
            "validation_file_path",
            "validation_mltable_path",
            "dataset_validation_split",
            "test_file_path",
            "test_mltable_path",
            "dataset_test_split",
        ),
        "trials that are measured on different rows cannot be compared",
    ),
}


def not_varied(name: str) -> str:
    """Return why a parameter cannot differ between the trials of a sweep; empty if it can."""
    reasons = (reason for group, reason in _ALIKE.items() if name in group.model_fields)
    return _ALIKE_TOO.get(name) or next(reasons, "")


STORED_BYTES = 64_000
"""Bytes of the longest text that KFP's store of parameters (ML Metadata) takes, with some to spare."""
RESULT_BYTES = 800
"""Bytes of the longest result of a trial, as it stands in the list of all results."""


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""A name that a folder can have."""


def as_folder(name: str) -> str:
    """Return the name of the folder of a sweep: its own, or a digest of a name that a folder cannot have."""
    return name if NAME.fullmatch(name) else hashlib.sha256(name.encode()).hexdigest()[:12]


Ended = Literal["finished", "pruned", "failed"]
ENDED: tuple[Ended, ...] = get_args(Ended)
STATES = ("finished", "running", "waiting", "pruned", "failed")
"""States of a trial, in the order of tables."""
MODEL, DATA = "model-{}", "data-{}"
"""Folders of the models, with their tokenizers, and of the prepared data that trials share, by place."""
Pruner = Literal["median", "successive_halving"]


class SweepParams(Group):
    """The trials of a sweep, and how the best one is found."""

    trials: list[dict[str, Any]] = Field(default_factory=list)
    """List of JSON objects, one for each trial: the parameters that differ from those of the other inputs."""

    parallelism: int = Field(2, ge=1, le=64)
    """Trials that run at the same time, each with its own machine."""

    sweep_metric: str = ""
    """Metric on the validation rows that selects the best trial; empty: gate_metric."""

    pruner: Literal["none", Pruner] = "none"
    """Rule that stops a trial whose evaluations during training are worse than those of others at the same step."""

    pruner_startup_trials: int = Field(5, ge=1)
    """Trials to compare with before one is stopped: finished ones (median), or ones that got as far as it."""

    pruner_warmup_steps: int = Field(0, ge=0)
    """Optimizer steps before which no trial is stopped."""

    sweep_name: str = ""
    """Name of the sweep in MLflow and in the report; empty: made from the pipeline's name and the trials."""

    sweep_search: dict[str, Any] = Field(default_factory=dict)
    """JSON object that says how the trials were found, for the report: search, space, budget, seed; empty: a list."""

    @field_validator("trials", mode="before")
    @classmethod
    def _empty(cls, value: Any) -> Any:
        return [] if value is None else value


WIDEST = 30  # characters of a parameter's value in a table


def as_cell(value: Any) -> str:
    """Return a parameter's value as a cell of a table: of a long path its end, of another long text its beginning."""
    if isinstance(value, float):
        return f"{value:g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if len(text) <= WIDEST:
        return text
    is_path = isinstance(value, str) and "/" in value and not any(one.isspace() for one in value)
    return f"…{text[1 - WIDEST :]}" if is_path else f"{text[: WIDEST - 1]}…"
