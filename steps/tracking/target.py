"""Where metrics go: a parameter that was given, else the environment, else its default.

Flags win over the configuration file before this (`pipelines/flags.py`), so the whole order is flag, file, environment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from steps.params.registration import TrackingParams

MEANS_OFF = "DISABLE_MLFLOW_INTEGRATION"
SQLITE = "sqlite:///"
HOSTED = ("databricks", "databricks-uc", "uc")  # servers that MLflow knows by a name alone
TRUE = {"1", "ON", "YES", "TRUE"}  # as transformers reads these variables


@dataclass(frozen=True)
class TrackingTarget:
    """One place for a run's metrics."""

    uri: str = ""
    """Tracking server; empty: nothing is tracked."""
    experiment: str = "default"
    copies_checkpoints: bool = False
    flattens: bool = True
    """Whether nested settings become parameters with dotted names, or one text for each group."""
    run_id: str = ""
    """A run that somebody else has opened, and ends."""
    tags: dict[str, str] = field(default_factory=dict)


def target_of(tracking: TrackingParams, environment: Mapping[str, str] = os.environ) -> TrackingTarget:
    """Decide where a step's metrics go."""
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
    """Name the server, which registers models also where metrics are switched off."""
    return store_of(tracking.mlflow_server_uri or environment.get("MLFLOW_TRACKING_URI", ""))


def store_of(uri: str) -> str:
    """Return the database of a folder, in which MLflow 3 keeps nothing otherwise; any other URI is itself."""
    if uri.startswith("file:"):
        folder = Path(unquote(urlsplit(uri).path))
    elif uri and ":" not in uri and uri not in HOSTED:
        folder = Path(uri)
    else:
        return uri
    return f"{SQLITE}{folder.expanduser().absolute()}/mlflow.db"


def make_place(uri: str) -> None:
    """Make the folder of a store without a server."""
    if uri.startswith(SQLITE):
        Path(uri.removeprefix(SQLITE)).absolute().parent.mkdir(parents=True, exist_ok=True)


def is_off(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the environment switches the tracking of metrics off."""
    return _is_true(environment, MEANS_OFF)


def _is_true(environment: Mapping[str, str], name: str, default: str = "") -> bool:
    return (environment.get(name) or default).strip().upper() in TRUE


def _tags(text: str) -> dict[str, str]:
    """Read MLFLOW_TAGS, a JSON object; anything else is nobody's tags."""
    try:
        given = json.loads(text or "{}")
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in given.items()} if isinstance(given, dict) else {}
