"""Files of a model or adapter at its source: list, digest, read and fetch them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

from steps.errors import Problem, UserError
from steps.params.settings import Resolved, SourceKind
from steps.sources import hub, storage

# Schemes of models in MLflow (`steps/tracking/registered.py`).
MLFLOW_SCHEMES = ("models:/", "runs:/")

LINK_OUT = "MODEL-E0303"


class Repository(Protocol):
    """Files at a source that is neither a folder nor an object store."""

    @property
    def files(self) -> dict[str, int]:
        """Name → bytes."""

    @property
    def commit(self) -> str:
        """What identifies these files for ever."""

    def read(self, name: str) -> bytes:
        """Read one small file."""

    def read_start(self, name: str, count: int) -> bytes:
        """Read the first `count` bytes of a file."""

    def cached(self, name: str) -> Path | None:
        """Return the path of a file on this machine; None if it would have to be fetched."""

    def download(self, names: list[str]) -> Path:
        """Fetch files and return their folder."""


@dataclass(frozen=True)
class ModelFiles:
    """A local folder, a folder in an object store, or one commit of a Hub repository; nothing is fetched yet."""

    parameter: str
    """The parameter that named the source, for messages."""
    kind: SourceKind
    uri: str
    names: dict[str, int]
    """Path inside the source → bytes."""
    repository: Repository | None = None
    registered: str = ""
    """The registered model that these files were found by, such as models:/dates/3; empty for a plain source."""
    sha256: dict[str, str] = field(default_factory=dict)
    """Path inside the source → digest of its content, where a registry lists them."""

    @cached_property
    def digest(self) -> str:
        """Digest of the current state: the commit, the content of local files, or etags and sizes in object stores."""
        return self.repository.commit if self.repository else storage.digest_of(self.parameter, self.uri)

    @property
    def resolved(self) -> Resolved:
        """The source with its digest, in the form used in settings."""
        return Resolved(uri=self.uri, digest=self.digest)

    def read(self, name: str) -> bytes:
        """Read one small file. Raises as `hub.resolve` and `storage.find_files`."""
        if self.repository:
            return self.repository.read(name)
        return storage.read_bytes(self.parameter, storage.join(self.uri, name))

    def read_start(self, name: str, count: int) -> bytes:
        """Read only the first `count` bytes of a file. Raises as `read`."""
        if self.repository:
            return self.repository.read_start(name, count)
        return storage.read_bytes(self.parameter, storage.join(self.uri, name), count)

    def local(self, name: str) -> Path | None:
        """Return the path of a file on this machine; None if it would have to be fetched."""
        if self.repository:
            return self.repository.cached(name)
        folder = storage.local_path(self.uri)
        return folder / name if folder else None


def open_files(parameter: str, kind: SourceKind, uri: str, revision: str = "main") -> ModelFiles:
    """List the files at a source of a model or adapter; `revision` is for the Hub.

    Raises UserError when there is nothing usable, SecurityRefusal for links out of a folder, Outage when the source
    does not answer.
    """
    if kind == "huggingface":
        repository = hub.resolve(uri, revision)
        return ModelFiles(parameter, kind, uri, repository.files, repository)
    if uri.startswith(MLFLOW_SCHEMES):
        raise UserError(
            Problem("REGISTRY-E0106", parameter, f"{uri}, a model in MLflow", "a folder, or a URI of an object store",
                    "a model to start from is named with mlflow_model_path=" + uri)
        )  # fmt: skip
    if problems := storage.check_uri(parameter, uri):
        raise UserError(problems)
    names = {name: info["size"] for name, info in storage.find_files(parameter, uri).items()}
    if "" in names:
        raise UserError(
            Problem("MODEL-E0112", parameter, f"the file {uri}", "a folder", "name the folder that contains it")
        )
    storage.refuse_links_out(parameter, uri, names, LINK_OUT)
    return ModelFiles(parameter, kind, uri, names)
