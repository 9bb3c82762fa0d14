"""MLflow's client, whose calls to a server come to an end, and which writes beside other processes."""

from __future__ import annotations

import random
import re
import time
from typing import Any

from steps.sources.bounded import Bounded
from steps.tracking.target import be_patient

COLLIDED = re.compile(r"IntegrityError|UniqueViolation|UNIQUE constraint|duplicate key|Duplicate entry", re.IGNORECASE)
TRIES = 5
LONGEST_WAIT = 0.2  # seconds between two tries

FOLDERS = ("log_artifacts",)  # how long an upload takes depends on its size


def connect(uri: str, retries: int = 1, seconds: int = 20) -> Any:
    """Return a client of a store or server; `retries` and `seconds` as in `be_patient`.

    A call to a server raises bounded.NoAnswer if it takes too long, an answer that goes on arriving included: limits of
    MLflow and requests are for the wait for the next byte.
    """
    be_patient(retries, seconds)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    return Repeating(Bounded(client, FOLDERS) if uri.startswith("http") else client)


class Repeating:
    """A client whose calls are repeated if another process wrote the same row at that moment.

    MLflow looks whether a tag, alias or parameter is there, and inserts it. Of two such calls at once the database
    accepts one and undoes the other, whose repetition then finds the row.
    """

    def __init__(self, client: Any):
        self._client = client

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if name.startswith("_") or not callable(found):
            return found
        return lambda *given, **named: _repeated(found, *given, **named)


def _repeated(call: Any, *given: Any, **named: Any) -> Any:
    from mlflow.exceptions import MlflowException

    for _ in range(TRIES - 1):
        try:
            return call(*given, **named)
        except MlflowException as error:
            if error.error_code == "RESOURCE_ALREADY_EXISTS" or not COLLIDED.search(str(error)):
                raise
        time.sleep(random.uniform(0, LONGEST_WAIT))
    return call(*given, **named)
