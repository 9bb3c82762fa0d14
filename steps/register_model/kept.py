"""The folders that registered versions need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.errors import Outage, Problem
from steps.params.registration import SQLITE
from steps.redaction import masked
from steps.register_model.registry import COPIED
from steps.tracking.connecting import connect
from steps.tracking.target import store_of


def registered_weights(mlflow_server_uri: str) -> dict[str, str]:
    """Return the place of the weights of every version that has no copy of its own: "version 3 of dates" → URI.

    A database that does not exist has none. Raises Outage if the server does not answer.
    """

    uri = store_of(mlflow_server_uri)
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
        return {}
    try:
        return dict(_all(connect(uri, retries=1, seconds=30)))
    except Exception as error:  # every store has its own exceptions
        said = str(masked((str(error).splitlines() or [type(error).__name__])[0]))[:200]
        raise Outage(
            Problem("REGISTER-E0402", f"MLflow at {masked(uri)}", said, "its registered versions",
                    "run again when MLflow is available")
        ) from error  # fmt: skip


def _all(client: Any) -> list[tuple[str, str]]:
    found, token = [], None
    while True:
        page = client.search_model_versions(max_results=1000, page_token=token)
        for version in page:
            place = version.tags.get("weights_uri")
            if place and COPIED not in version.tags:
                found.append((f"version {version.version} of {version.name}", place))
        token = page.token
        if not token:
            return found
