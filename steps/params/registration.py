"""Tracking and the model registry."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from steps.errors import Problem, shown
from steps.params.group import Group, Renamed

# What steps/tracking reads from the environment: the tasks that track get these from mlflow_config_map.
TRACKING_VARIABLES = (
    "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_FLATTEN_PARAMS", "MLFLOW_TAGS", "HF_MLFLOW_LOG_ARTIFACTS",
    "DISABLE_MLFLOW_INTEGRATION",
)  # fmt: skip
_BOOLEAN = TypeAdapter(bool)
_NAME = re.compile(r"\w[\w .-]{0,199}")
_ALIAS = re.compile(r"[\w-]{1,255}")
_RESERVED_ALIAS = re.compile(r"latest|v\d+", re.IGNORECASE)  # MLflow reads these as versions


def _switch(value: Any) -> Any:
    """Read every way to write a boolean (True, 1, yes, "False", …) as the choice of that name."""
    text = str(value).strip().lower()
    if text == "auto":
        return text
    try:
        return str(_BOOLEAN.validate_python(text)).lower()
    except ValidationError:
        return value


class TrackingParams(Group):
    """Where metrics go while the model trains."""

    mlflow_server_uri: Annotated[str, Renamed(names=("tracking_uri",))] = ""
    """MLflow server; a folder gets a database, empty takes MLFLOW_TRACKING_URI, a local run its own sqlite store."""

    experiment_name: str = Field("default", min_length=1)
    """MLflow experiment; default takes MLFLOW_EXPERIMENT_NAME where that is set."""

    hf_mlflow_log_artifacts: Annotated[Literal["auto", "true", "false"], BeforeValidator(_switch)] = "auto"
    """Copy each saved checkpoint to the MLflow run's artifacts; auto takes HF_MLFLOW_LOG_ARTIFACTS, else none."""

    mlflow_config_map: str = Field("mlflow", min_length=1)
    """Kubernetes config map whose MLFLOW_ and other tracking variables the tasks get; a cluster without it is fine."""


class RegistrationParams(Group):
    """Under which name the tuned model becomes a version."""

    register_tuned_model: bool = True
    """Register the tuned model when it passes the gate."""

    registered_model_name: str = ""
    """Name in the MLflow registry; empty takes the pipeline's name."""

    registered_model_alias: str = Field("champion", min_length=1)
    """Alias that is moved to the new version."""

    def conflicts(self) -> Iterator[Problem]:
        """MLflow and its search would misread some names."""
        if self.registered_model_name and not _NAME.fullmatch(self.registered_model_name):
            yield Problem("REGISTER-E0202", "registered_model_name", shown(self.registered_model_name),
                          "at most 200 letters, digits, spaces, dots, _ and -", "choose another name")  # fmt: skip
        alias = self.registered_model_alias
        if not _ALIAS.fullmatch(alias) or _RESERVED_ALIAS.fullmatch(alias):
            yield Problem("REGISTER-E0203", "registered_model_alias", shown(alias),
                          "letters, digits, _ and -, but not latest, v1, v2, …", "choose another alias")  # fmt: skip
