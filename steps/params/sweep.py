"""What a sweep adds to the parameters of its pipeline: the trials, and how the best one is found."""

from typing import Any, Literal

from pydantic import Field, field_validator

from steps.params.compute import ComputeParams
from steps.params.group import Group
from steps.params.registration import RegistrationParams, TrackingParams
from steps.params.training import CheckpointParams

_GROUPS: dict[type[Group], str] = {
    RegistrationParams: "only the best trial is registered, once",
    TrackingParams: "all trials are tracked below one parent run",
    CheckpointParams: "it changes where and when checkpoints are written, not the result",
    ComputeParams: "all trials of a sweep run on machines of one kind",
}
_GATE = "one gate decides about the best trial"
_MEASURED = "all trials are measured in the same way"
_ROWS = "all trials are measured on the same rows"
_ACCESS = "it gives access and does not change the result"

UNVARIED: dict[str, str] = {
    "overrides": "a trial names its parameters itself",
    **{name: reason for group, reason in _GROUPS.items() for name in group.model_fields},
    **dict.fromkeys(("gate_metric", "gate_min_value", "gate_max_value", "gate_must_beat_base"), _GATE),
    **dict.fromkeys(
        ("evaluation_max_rows", "evaluation_max_new_tokens", "evaluation_config", "evaluation_config_params"), _MEASURED
    ),
    **dict.fromkeys(
        ("validation_file_path", "test_file_path", "validation_mltable_path", "test_mltable_path",
         "dataset_validation_split", "dataset_test_split", "split", "auto_split"), _ROWS
    ),
    **dict.fromkeys(("huggingface_token_secret", "trust_remote_code"), _ACCESS),
}  # fmt: skip
"""The parameters that all trials of a sweep share, with the reason, as it stands after "because".

Whole groups are named, so that a parameter that is added to one of them is shared as well.
"""


class SweepParams(Group):
    """The trials of a sweep, and how the best one is found."""

    trials: list[dict[str, Any]] = Field(default_factory=list)
    """List of JSON objects, one for each trial: the parameters that differ from those of the other inputs."""

    parallelism: int = Field(2, ge=1, le=64)
    """Trials that run at the same time, each with its own machine."""

    sweep_metric: str = ""
    """Metric on the validation rows that selects the best trial; empty: gate_metric."""

    pruner: Literal["none", "median", "successive_halving"] = "none"
    """Rule that stops a trial whose evaluations during training are worse than those of others at the same step."""

    pruner_startup_trials: int = Field(5, ge=1)
    """Trials that pruner=median never stops: those before so many are finished."""

    pruner_warmup_steps: int = Field(0, ge=0)
    """Optimizer steps before which no trial is stopped."""

    sweep_name: str = ""
    """Name of the sweep in MLflow and in the report; empty: made from the pipeline's name and the trials."""

    @field_validator("trials", mode="before")
    @classmethod
    def _empty(cls, value: Any) -> Any:
        return [] if value is None else value
