"""MLflow's client, whose calls to a server come to an end."""

from __future__ import annotations

from typing import Any

from steps.sources.bounded import Bounded
from steps.tracking.target import be_patient

FOLDERS = ("log_artifacts",)  # how long an upload takes depends on its size


def connect(uri: str, retries: int = 1, seconds: int = 20) -> Any:
    """Return a client of a store or server; `retries` and `seconds` as in `be_patient`.

    A call to a server raises bounded.NoAnswer if it takes too long, an answer that goes on arriving included: limits of
    MLflow and requests are for the wait for the next byte.
    """
    be_patient(retries, seconds)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    return Bounded(client, FOLDERS) if uri.startswith("http") else client
