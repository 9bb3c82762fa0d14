"""Metric tracking and the model registry."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from steps.errors import Problem, shown
from steps.params.choice import switch
from steps.params.group import Group, Renamed

MEANS_OFF = "DISABLE_MLFLOW_INTEGRATION"
# What steps/tracking reads from the environment: the tasks that track get these from mlflow_config_map.
TRACKING_VARIABLES = (
    "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_FLATTEN_PARAMS", "MLFLOW_TAGS", "HF_MLFLOW_LOG_ARTIFACTS",
    MEANS_OFF,
)  # fmt: skip
SQLITE = "sqlite:///"
SIGNING_KEY = "FINETUNE_SIGNING_KEY"  # variable with the path of the key that signs registered versions
COMPILED_AS = (
    "FINETUNE_COMPILED_AS"  # variable that compile sets for register-model: images, and digest of the pipeline
)
_NAME = re.compile(r"\w[\w .-]{0,199}")
_ALIAS = re.compile(r"[\w-]{1,255}")
_RESERVED_ALIAS = re.compile(r"latest|v\d+", re.IGNORECASE)  # MLflow reads these as versions


def database_in(folder: Path) -> str:
    """Return the URI of the MLflow store in a folder, such as the root of local runs: MLflow 3 needs a database."""
    return f"{SQLITE}{folder.absolute()}/mlflow.db"


class MlflowServer(Group):
    """The MLflow server."""

    mlflow_server_uri: Annotated[str, Renamed(names=("tracking_uri",))] = ""
    """MLflow server, or a folder for a database; empty: MLFLOW_TRACKING_URI, or a local run's own sqlite store."""

    mlflow_config_map: str = Field("mlflow", min_length=1)
    """Kubernetes config map with MLFLOW_ and other tracking variables for the tasks; it need not exist."""


class TrackingParams(MlflowServer):
    """Where metrics are logged during training."""

    experiment_name: str = Field("default", min_length=1)
    """MLflow experiment; default uses MLFLOW_EXPERIMENT_NAME if it is set."""

    hf_mlflow_log_artifacts: Annotated[Literal["auto", "true", "false"], BeforeValidator(switch)] = "auto"
    """Copy each checkpoint to the MLflow run's artifacts; auto follows HF_MLFLOW_LOG_ARTIFACTS, else false."""


class RegistrationParams(Group):
    """Registration of the tuned model."""

    register_tuned_model: bool = True
    """Register the tuned model if it passes the gate."""

    registered_model_name: str = ""
    """Name in the MLflow registry; empty uses the pipeline's name."""

    registered_model_alias: str = Field("champion", min_length=1)
    """Alias to set on the new version; it is removed from the previous one."""

    copy_weights_to_mlflow: bool = False
    """Copy the weights into MLflow's artifact store; false registers a reference to the folder of the run."""

    def conflicts(self) -> Iterator[Problem]:
        """Refuse names that MLflow or its search would misread."""
        if self.registered_model_name and not _NAME.fullmatch(self.registered_model_name):
            yield Problem("REGISTER-E0202", "registered_model_name", shown(self.registered_model_name),
                          "at most 200 letters, digits, spaces, dots, _ and -", "choose another name")  # fmt: skip
        alias = self.registered_model_alias
        if not _ALIAS.fullmatch(alias) or _RESERVED_ALIAS.fullmatch(alias):
            yield Problem("REGISTER-E0203", "registered_model_alias", shown(alias),
                          "letters, digits, _ and -, and not latest, v1, v2, …", "choose another alias")  # fmt: skip
