"""Open a model that MLflow knows: models:/name@alias, models:/name/version, runs:/id/path, or a folder registered here.

A version that this project registered refers to the folder with its weights, which is then the source. Any other model
is read through MLflow, so that it does not matter where the server keeps its artifacts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from steps.artifacts import MANIFEST
from steps.errors import Outage, Problem, StepError, UserError, nearest, shown
from steps.models.layout import COPY_FOLDER, REFERENCE_FILE
from steps.params.registration import SQLITE, TrackingParams
from steps.params.text_file import any_json
from steps.redaction import masked
from steps.sources import bounded, storage
from steps.sources.model_files import MLFLOW_SCHEMES, ModelFiles, open_files
from steps.tracking.connecting import connect
from steps.tracking.store import is_refusal
from steps.tracking.target import be_patient, registry_uri, store_or_local

PARAMETER = "mlflow_model_path"
MOST_NAMES = 20
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the second for a name that MLflow does not allow


def is_registered(uri: str) -> bool:
    """Return whether a URI names a model by MLflow's registry or one of its runs."""
    return uri.startswith(MLFLOW_SCHEMES)


def open_mlflow(uri: str, mlflow_server_uri: str = "") -> ModelFiles:
    """Open the model that mlflow_model_path names: a folder, or a model in MLflow.

    Raises UserError if there is none (with the names that there are), or if the weights it refers to are gone or were
    changed; Outage if MLflow does not answer.
    """
    if not is_registered(uri):
        return _follow(open_files(PARAMETER, "mlflow", uri))
    server = server_of(mlflow_server_uri)
    with _explained(server):
        found, place = _look_up(connect(server, retries=2, seconds=30), uri, server)
        stored = bounded.ended(partial(_open_stored, found, place, server))
        return replace(_follow(ModelFiles(PARAMETER, "mlflow", found, stored.files, stored)), registered=found)


@dataclass(frozen=True)
class Version:
    """A version in the registry, as it is told there."""

    name: str
    number: str
    run_id: str
    tags: dict[str, str]
    model: StoredModel

    @property
    def uri(self) -> str:
        """What names it for ever."""
        return f"models:/{self.name}/{self.number}"


def open_version(uri: str, mlflow_server_uri: str = "") -> Version:
    """Open models:/name@alias, models:/name/3 or models:/name/latest, without following it to its weights.

    Its files may be any, or none: nobody has looked at them.
    Raises UserError if there is no such version, with those that there are; Outage if MLflow does not answer.
    """
    server = server_of(mlflow_server_uri)
    with _explained(server):
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=server)
        found, place = _look_up(client, uri, server)
        name, _, number = _parts(found.removeprefix("models:/"))
        told = client.get_model_version(name, number)
        repository = _repository(place, server)
        # A folder of this machine is listed by whoever looks for links in it, at which MLflow's list may fail.
        model = StoredModel({}, repository, TemporaryDirectory(prefix="mlflow-"), server)
        if not model.local:
            model.files.update(_files(repository, ""))
        return Version(name, number, told.run_id or "", dict(told.tags), model)


def server_of(mlflow_server_uri: str) -> str:
    """Return the server with the models: the parameter, else the environment, else the store of local runs.

    Raises UserError without one, or for a database that does not exist; MLflow would create it.
    """
    uri = store_or_local(registry_uri(TrackingParams(mlflow_server_uri=mlflow_server_uri)))
    if not uri:
        raise UserError(
            Problem("REGISTRY-E0101", PARAMETER, "no MLflow server to look in",
                    "mlflow_server_uri or MLFLOW_TRACKING_URI", "set one of them to the server with the model")
        )  # fmt: skip
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
        raise UserError(
            Problem("REGISTRY-E0102", "mlflow_server_uri", f"no database at {uri}",
                    "the store with the registered model", "set mlflow_server_uri, or --root where it was registered")
        )  # fmt: skip
    return uri


# In MLflow


@dataclass(frozen=True)
class StoredModel:
    """The files of one model in MLflow's artifact store; the same interface as a commit on the Hub."""

    files: dict[str, int]
    """Name → bytes."""
    repository: Any
    """MLflow's artifact repository."""
    temporary: TemporaryDirectory
    """Folder for files that are fetched; deleted when the model is not used any more."""
    server: str
    _read: dict[str, bytes] = field(default_factory=dict)

    @property
    def scratch(self) -> Path:
        """Folder for files that are fetched."""
        return Path(self.temporary.name)

    @property
    def local(self) -> Path | None:
        """The folder of a store on this machine."""
        folder = getattr(self.repository, "artifact_dir", None)  # MLflow's repositories of folders have it, no others
        return Path(folder) if folder else None

    @property
    def commit(self) -> str:
        """Digest of names, sizes and the description; a version's files are never changed in place."""
        told = [f"{name}\0{size}" for name, size in sorted(self.files.items())]
        small = [
            self.read(name).decode("utf-8", "replace") for name in ("MLmodel", REFERENCE_FILE) if name in self.files
        ]
        return hashlib.sha256("\n".join([*told, *small]).encode()).hexdigest()

    def read(self, name: str) -> bytes:
        """Read one small file. Raises Outage."""
        if name not in self._read:
            self._read[name] = (self.download([name]) / name).read_bytes()
        return self._read[name]

    def read_start(self, name: str, count: int) -> bytes:
        """Read the first `count` bytes; where the server passes files on, only these are transferred. Raises Outage."""
        if local := self.cached(name):
            with open(local, "rb") as stream:
                return stream.read(count)
        if not hasattr(self.repository, "_host_creds"):
            return (self.download([name]) / name).read_bytes()[:count]
        with _explained(self.server):
            return bounded.ended(partial(_start, self.repository._host_creds, name, count))

    def cached(self, name: str) -> Path | None:
        """Return the path of a file on this machine; None if it would have to be fetched."""
        local = storage.local_path(str(self.repository.artifact_uri))
        own = [folder / name for folder in (local, self.scratch) if folder]
        return next((file for file in own if file.is_file()), None)

    def download(self, names: list[str], into: Path | None = None) -> Path:
        """Fetch files into a folder, by default a temporary one, and return it; that of a local store itself.

        Raises Outage.
        """
        local = storage.local_path(str(self.repository.artifact_uri))
        if local and local.is_dir():
            return local
        place = into or self.scratch
        with _explained(self.server):
            for name in names:
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                bring = partial(self.repository._download_file, name, str(place / name))
                bounded.moving(bring, partial(_bytes_in, place))
                found = (place / name).stat().st_size
                if self.files[name] and found != self.files[name]:
                    raise ConnectionError(f"{found} of {self.files[name]} bytes of {name} arrived")
        return place


def _start(credentials: Any, name: str, count: int) -> bytes:
    """Return the first bytes of a file that a server passes on."""
    from mlflow.utils.request_utils import augmented_raise_for_status
    from mlflow.utils.rest_utils import http_request

    answer = http_request(credentials, f"/{name}", "GET", stream=True)
    augmented_raise_for_status(answer)
    blocks, found = answer.iter_content(min(count, 1 << 20)), b""
    while len(found) < count and (block := next(blocks, b"")):
        found += block
    answer.close()
    return found[:count]


def _bytes_in(folder: Path) -> int:
    """Return the bytes of all files in a folder: MLflow writes some beside the one that it is asked for."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _look_up(client: Any, uri: str, server: str) -> tuple[str, str]:
    """Return a URI that always means the same model (an alias becomes its version), and the URI of its files."""
    if uri.startswith("runs:/"):
        run_id, _, path = uri.removeprefix("runs:/").strip("/").partition("/")
        root = _run(client, uri, run_id).info.artifact_uri.rstrip("/")
        return f"runs:/{run_id}/{path}".rstrip("/"), f"{root}/{path}".rstrip("/")
    wanted = uri.removeprefix("models:/").strip("/")
    name, alias, version = _parts(wanted)
    if not (alias or version) and wanted.startswith("m-"):
        return uri, client.get_logged_model(wanted).artifact_location
    known = _known(client, name, server)
    if alias:
        version = str(known.aliases.get(alias, ""))
    versions = sorted((str(one.version) for one in client.search_model_versions(f"name = '{name}'")), key=int)
    if version == "latest" and versions:
        version = versions[-1]
    if version not in versions:
        there = [f"models:/{name}@{one}" for one in known.aliases] + [f"models:/{name}/{one}" for one in versions]
        said = f"no alias {alias}" if alias else f"no version {version}" if version else "no version or alias"
        raise _missing(
            uri, f"{said} of {name}", f"one of {', '.join(there)}" if there else "a version, of which it has none"
        )
    return f"models:/{name}/{version}", client.get_model_version_download_uri(name, version)


def _parts(wanted: str) -> tuple[str, str, str]:
    """Split name@alias or name/version into name, alias and version."""
    if "@" in wanted:
        name, _, alias = wanted.rpartition("@")
        return name, alias, ""
    name, slash, version = wanted.rpartition("/")
    return (name, "", version) if slash else (wanted, "", "")


def _known(client: Any, name: str, server: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
    names = [model.name for model in client.search_registered_models(max_results=MOST_NAMES)]
    there = f"one of {', '.join(names)}" if names else "a registered model, of which there is none"
    raise _missing(name, f"no model {shown(name)} in MLflow at {masked(server)}", there, nearest(name, names))


def _run(client: Any, uri: str, run_id: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    newest = [run.info.run_id for run in client.search_runs(experiments, max_results=5)]
    raise _missing(uri, f"no run {shown(run_id)}", f"the id of a run; the newest are {', '.join(newest) or 'none'}")


def _open_stored(uri: str, place: str, server: str) -> StoredModel:
    repository = _repository(place, server)
    files = dict(_files(repository, ""))
    if "MLmodel" not in files:
        there = ", ".join(sorted({name.split("/")[0] for name in files})[:10]) or "nothing"
        raise _missing(uri, f"no file MLmodel (it holds: {there})", "an MLflow model")
    return StoredModel(files, repository, TemporaryDirectory(prefix="mlflow-"), server)


def _repository(place: str, server: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(place, tracking_uri=server)
    while inner := getattr(repository, "repo", None):  # those of models:/ and runs:/ only refer to another
        repository = inner
    return repository


def _files(repository: Any, folder: str) -> Iterator[tuple[str, int]]:
    for entry in repository.list_artifacts(folder or None):
        if entry.is_dir:
            yield from _files(repository, entry.path)
        else:
            yield entry.path, int(entry.file_size or 0)


# A model that this project registered


def _follow(files: ModelFiles) -> ModelFiles:
    """Return the weights that a registered model refers to; any other model is returned unchanged.

    Raises UserError if these weights are gone or were changed.
    """
    root = min((name for name in files.names if name.rsplit("/", 1)[-1] == "MLmodel"), key=len, default="")
    root = root.removesuffix("MLmodel")
    if root + REFERENCE_FILE not in files.names:
        return files
    described = _described(files, root + REFERENCE_FILE)
    listed = {name: entry["sha256"] for name, entry in described["files"].items()}
    if all(f"{root}{COPY_FOLDER}/{name}" in files.names for name in listed):
        return replace(files, sha256={f"{root}{COPY_FOLDER}/{name}": digest for name, digest in listed.items()})
    uri = described["weights_uri"]
    try:
        weights = open_files(PARAMETER, "pytorch", uri)
    except UserError as error:
        if error.problems[0].code != "URI-E0201":
            raise
        raise _gone(files.uri, f"weights at {uri}, which does not exist any more") from None
    sizes = {name: entry["size"] for name, entry in described["files"].items()}
    if wrong := [name for name, size in sizes.items() if weights.names.get(name) != size]:
        raise _gone(files.uri, f"weights at {uri}, where {wrong[0]} is missing or has another size")
    if storage.local_path(uri) and set(weights.names) - {MANIFEST} == set(listed):
        lines = "".join(f"{name}\0{listed[name]}\n" for name in sorted(listed))
        if weights.digest != hashlib.sha256(lines.encode()).hexdigest():
            raise _gone(files.uri, f"weights at {uri} that were changed after the registration")
    return replace(weights, registered=files.uri, sha256=listed)


def _described(files: ModelFiles, name: str) -> dict[str, Any]:
    """Read the file that tells where the weights of a registered model are. Raises UserError for another one."""
    try:
        told = any_json(files.read(name))
        listed = told["files"].values()
        if isinstance(told["weights_uri"], str) and all(
            isinstance(one["sha256"], str) and type(one["size"]) is int for one in listed
        ):
            return dict(told)
    except (ValueError, TypeError, KeyError, AttributeError):
        pass  # none of ours
    raise UserError(
        Problem("REGISTRY-E0108", f"{PARAMETER}: {files.uri}", f"{name}, which is not what register_model writes",
                "the weights' place, with their files", "register the model again")
    )  # fmt: skip


def _gone(uri: str, found: str) -> UserError:
    return UserError(
        Problem("REGISTRY-E0103", f"{PARAMETER}: {uri}", found, "the weights that were registered",
                "restore that folder, or register the model again (copy_weights_to_mlflow=true keeps a copy in MLflow)")
    )  # fmt: skip


def _missing(uri: str, found: str, expected: str, fix: str = "") -> UserError:
    return UserError(Problem("REGISTRY-E0104", f"{PARAMETER}: {uri}", found, expected, fix or "name one of these"))


@contextmanager
def _explained(server: str) -> Iterator[None]:
    """Turn MLflow's errors into ours: UserError if it refuses, Outage if it does not answer."""
    be_patient(retries=2, seconds=30)
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except StepError:
        raise
    except (MlflowException, RequestException, SQLAlchemyError, ConnectionError, FileNotFoundError) as error:
        code = getattr(error, "error_code", "")
        said = f"{code or type(error).__name__}: {masked(str(error))[:300]}"
        where = f"MLflow at {masked(server)}"
        if is_refusal(error) or type(error).__name__.startswith("Unsupported"):
            raise UserError(
                Problem("REGISTRY-E0105", where, said, f"the model of {PARAMETER}", "correct it, or mlflow_server_uri")
            ) from error
        raise Outage(
            Problem("REGISTRY-E0401", where, said, "an answer", "run again when MLflow is available")
        ) from error
