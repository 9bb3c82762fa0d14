"""Choose the server for metrics: the parameter if set, else the environment, else its default.

Flags already override the configuration file (`pipelines/flags.py`), so the order is flag, file, environment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from steps.params.registration import MEANS_OFF as MEANS_OFF
from steps.params.registration import TrackingParams, database_in
from steps.running import LOCAL_ROOT
from steps.writing import with_home

HOSTED = ("databricks", "databricks-uc", "uc")  # servers that MLflow accepts as a plain name
TRUE = {"1", "ON", "YES", "TRUE"}  # the values that transformers accepts


@dataclass(frozen=True)
class TrackingTarget:
    """Server and settings for a run's metrics."""

    uri: str = ""
    """Tracking server; if empty, nothing is tracked."""
    experiment: str = "default"
    copies_checkpoints: bool = False
    flattens: bool = True
    """Whether nested settings become parameters with dotted names; if not, each group becomes one text."""
    run_id: str = ""
    """A run that another program created and ends."""
    tags: dict[str, str] = field(default_factory=dict)


def target_of(tracking: TrackingParams, environment: Mapping[str, str] = os.environ) -> TrackingTarget:
    """Return the target of a step's metrics."""
    usual = TrackingParams.model_fields["experiment_name"].default
    asked = tracking.experiment_name
    return TrackingTarget(
        uri="" if is_off(environment) else registry_uri(tracking, environment),
        experiment=asked if asked != usual else environment.get("MLFLOW_EXPERIMENT_NAME") or usual,
        copies_checkpoints=(
            _is_true(environment, "HF_MLFLOW_LOG_ARTIFACTS")
            if tracking.hf_mlflow_log_artifacts == "auto"
            else tracking.hf_mlflow_log_artifacts == "true"
        ),
        flattens=_is_true(environment, "MLFLOW_FLATTEN_PARAMS", "TRUE"),
        run_id=environment.get("MLFLOW_RUN_ID", ""),
        tags=_tags(environment.get("MLFLOW_TAGS", "")),
    )


def registry_uri(tracking: TrackingParams, environment: Mapping[str, str] = os.environ) -> str:
    """Return the server's URI; models are registered there even if metrics are switched off."""
    return store_of(tracking.mlflow_server_uri or environment.get("MLFLOW_TRACKING_URI", ""))


def store_of(uri: str) -> str:
    """Return the URI of the database in a folder; other URIs stay unchanged."""
    if uri.startswith("file:"):
        folder = Path(unquote(urlsplit(uri).path))
    elif uri and ":" not in uri and uri not in HOSTED:
        folder = Path(uri)
    else:
        return uri
    return database_in(with_home(folder))


def store_or_local(uri: str) -> str:
    """Return the store for a server's URI; without a server, that of local runs, or nothing outside of them."""
    root = os.environ.get(LOCAL_ROOT)
    return store_of(uri) or (database_in(Path(root)) if root else "")


def be_patient(retries: int = 1, seconds: int = 20) -> None:
    """Set how often and how long MLflow's client asks a server that does not answer; the user's own variables win.

    The defaults are for what can also be sent later. With MLflow's own limits (7 retries of 120 seconds) a step would
    wait for a quarter of an hour.
    """
    wanted = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries),
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds),
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


def is_off(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the environment switches the tracking of metrics off."""
    return _is_true(environment, MEANS_OFF)


def _is_true(environment: Mapping[str, str], name: str, default: str = "") -> bool:
    return (environment.get(name) or default).strip().upper() in TRUE


def _tags(text: str) -> dict[str, str]:
    """Read MLFLOW_TAGS, a JSON object; anything else is ignored."""
    try:
        given = json.loads(text or "{}")
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in given.items()} if isinstance(given, dict) else {}
