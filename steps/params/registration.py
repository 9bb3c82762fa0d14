"""Tracking and the model registry."""

from pydantic import Field

from steps.params.group import Group


class TrackingParams(Group):
    """Where metrics go while the model trains."""

    mlflow_server_uri: str = ""
    """MLflow tracking URI; empty takes MLFLOW_TRACKING_URI, and a local run its own sqlite store."""

    experiment_name: str = Field("default", min_length=1)
    """MLflow experiment."""


class RegistrationParams(Group):
    """Under which name the tuned model becomes a version."""

    register_tuned_model: bool = True
    """Register the tuned model when it passes the gate."""

    registered_model_name: str = ""
    """Name in the MLflow registry; empty takes the pipeline's name."""

    registered_model_alias: str = Field("champion", min_length=1)
    """Alias that is moved to the new version."""
