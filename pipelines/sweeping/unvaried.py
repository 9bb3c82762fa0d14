"""The parameters that all trials of a sweep share, with the reason.

Whole groups are named, so that a parameter that is added to one of them is shared as well.
"""

from __future__ import annotations

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
"""Name → the reason why it has one value in a sweep, as it stands after "because"."""
