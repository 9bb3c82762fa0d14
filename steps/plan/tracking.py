"""Whether metrics and the registered version can be sent where they should go."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import quote, urlsplit

from steps.errors import Problem, nearest, shown
from steps.params.registration import SQLITE, TrackingParams
from steps.plan.seen import Seen
from steps.redaction import masked
from steps.tracking.target import HOSTED, store_of, store_or_local, target_of
from steps.writing import can_be_written

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SCHEMES = ("http", "https", "file", *DATABASES, *HOSTED)
PLUGINS = "mlflow.tracking_store"  # entry points of packages that add a scheme to MLflow
BY_NAME = "/api/2.0/mlflow/experiments/get-by-name?experiment_name="
# What is not there, and more likely a server or nothing than a folder to create: blanks, half a scheme, a host.
NO_FOLDER = re.compile(
    r"[^/]*\s.*|(https?|sqlite|postgresql|mysql)/.*|localhost|none|null|true|false|[\w-]+(\.[\w-]+)+", re.IGNORECASE
)
PATIENCE = 1.5  # seconds for an answer of the server; without one, finetune asks again
LONGEST_NAME = 500  # MLflow's limit


def tracking_problems(seen: Seen) -> Iterator[Problem]:
    """Yield problems of the server's address, and of an experiment that was deleted or has an impossible name."""
    where, given = _server(seen.parameters)
    address = list(_address_problems(where, given))
    yield from address
    named, experiment = _experiment(seen.parameters)
    if len(experiment) > LONGEST_NAME or not experiment.isprintable():
        yield Problem("PLAN-E0372", named, shown(experiment), f"at most {LONGEST_NAME} printable characters",
                      "choose another name")  # fmt: skip
    elif not address and (number := _deleted(store_or_local(given), experiment)):
        yield Problem("PLAN-E0373", named, f"{experiment!r}, which was deleted", "an experiment that takes runs",
                      f"restore it (mlflow experiments restore --experiment-id {number}), or choose another "
                      "experiment_name", why="MLflow keeps the name of a deleted experiment")  # fmt: skip


def _server(p: TrackingParams) -> tuple[str, str]:
    """Return the name of what gives the server, and its value."""
    name = "MLFLOW_TRACKING_URI"
    return ("mlflow_server_uri", p.mlflow_server_uri) if p.mlflow_server_uri else (name, os.environ.get(name, ""))


def _experiment(p: TrackingParams) -> tuple[str, str]:
    experiment = target_of(p).experiment
    return ("experiment_name" if experiment == p.experiment_name else "MLFLOW_EXPERIMENT_NAME"), experiment


def _address_problems(where: str, given: str) -> Iterator[Problem]:
    """Yield the problem of an address that MLflow cannot use."""
    if not given or given in HOSTED:
        return
    text = str(masked(given))
    scheme, colon, rest = given.partition(":")
    expected = "the address of an MLflow server (http://host:port), a folder, or sqlite:///file"
    is_path = given.startswith(("file:", "sqlite:"))  # the path of a run's root may have blanks
    if not given.isprintable() or given != given.strip() or (colon and " " in given and not is_path):
        yield Problem("PLAN-E0371", where, shown(text), f"{expected}, without blanks", "remove the blanks")
    elif colon and not rest.startswith("/") and scheme not in (*HOSTED, "file"):
        fix = f"write http://{text}" if rest[:1].isdigit() else "write http://host:port"
        yield Problem("PLAN-E0371", where, shown(text), expected, fix)
    elif colon and scheme.split("+")[0].lower() not in (*SCHEMES, *(one.name for one in entry_points(group=PLUGINS))):
        fix = nearest(scheme, SCHEMES) or "correct the scheme, or install its plugin for MLflow"
        yield Problem("PLAN-E0371", where, f"{shown(text)} with the scheme {scheme}",
                      f"one of {', '.join(SCHEMES)}", fix)  # fmt: skip
    elif NO_FOLDER.fullmatch(given) and not os.path.exists(os.path.expanduser(given)):
        yield Problem("PLAN-E0371", where, shown(text), expected,
                      f"write http://… for a server, or ./{text} for a folder")  # fmt: skip
    elif wrong := _malformed(given):
        yield Problem("PLAN-E0371", where, shown(text), *wrong)


def _malformed(given: str) -> tuple[str, str] | None:
    """Return what is expected of an address of a known scheme, and how to correct it; None if it is right."""
    scheme = given.partition(":")[0].lower()
    if scheme in ("http", "https"):
        try:
            split = urlsplit(given)
            whole = bool(split.hostname) and (split.port is None or split.port > 0)
        except ValueError:
            whole = False
        return None if whole else (f"{scheme}://host:port", "correct host and port")
    if not (store := store_of(given)).startswith("sqlite"):
        return None
    file = Path(store.removeprefix(SQLITE))
    if not store.startswith(SQLITE) or str(file) in (".", ":memory:"):
        return "sqlite:/// and a file", "write sqlite:///mlflow.db, or sqlite:////folder/mlflow.db for a full path"
    if file.is_dir():
        return "a file of SQLite", f"name a file in it: {store.rstrip('/')}/mlflow.db"
    if file.is_file() and file.stat().st_size and file.read_bytes()[:15] != b"SQLite format 3":
        return "a file of SQLite", "name another file; a new one is created"
    parent = next(folder for folder in file.absolute().parents if folder.exists())
    if not parent.is_dir() or not can_be_written(parent):
        return f"a file below a folder that can be written, unlike {parent}", "name another file"
    return None


def _deleted(store: str, experiment: str) -> str:
    """Return the id of an experiment that was deleted; empty if it was not, or if the store does not tell."""
    if store.startswith(SQLITE):
        return _deleted_in_file(Path(store.removeprefix(SQLITE)), experiment)
    if store.startswith(("http://", "https://")):
        return _deleted_on_server(store.rstrip("/") + BY_NAME + quote(experiment))
    return ""


def _deleted_in_file(file: Path, experiment: str) -> str:
    query = "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'deleted'"
    if file.is_file():
        with (
            suppress(sqlite3.Error),
            closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as open_,
        ):
            row = open_.execute(query, (experiment,)).fetchone()
            return str(row[0]) if row else ""
    return ""


def _deleted_on_server(address: str) -> str:
    headers = {"Authorization": f"Bearer {token}"} if (token := os.environ.get("MLFLOW_TRACKING_TOKEN")) else {}
    with suppress(OSError, ValueError, AttributeError):
        request = urllib.request.Request(address, headers=headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            found = json.load(answer).get("experiment") or {}
        return str(found["experiment_id"]) if found.get("lifecycle_stage") == "deleted" else ""
    return ""
