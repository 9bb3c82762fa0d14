"""The files of a folder, of a model in MLflow's store, or at a URI: names, what is no plain file, and digests.

Nothing is left out of a list, whatever its name: what is signed is every file.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from steps.artifacts import BLOCK, sha256_of
from steps.errors import UserError
from steps.sources import storage
from steps.tracking.registered import StoredModel

PARAMETER = "MODEL"


class Place(Protocol):
    """Where files are."""

    @property
    def where(self) -> str:
        """Its path or URI."""

    @property
    def names(self) -> set[str]:
        """The paths of the plain files in it."""

    @property
    def odd(self) -> dict[str, str]:
        """Path → what it is, for what is no plain file: links, pipes."""

    def read(self, name: str) -> bytes:
        """Read one small file."""

    def sha256(self, name: str) -> str:
        """Hash one file."""


def digests(place: Place, names: set[str]) -> dict[str, str]:
    """Hash several files at once."""
    wanted = sorted(names)
    with ThreadPoolExecutor(max_workers=4) as pool:
        return dict(zip(wanted, pool.map(place.sha256, wanted), strict=True))


@dataclass(frozen=True)
class Folder:
    """A folder of this machine."""

    path: Path
    names: set[str] = field(default_factory=set)
    odd: dict[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return str(self.path)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def sha256(self, name: str) -> str:
        return sha256_of(self.path / name)


def folder_at(path: Path) -> Folder:
    """List a folder; one that does not exist is empty."""
    found = Folder(path)
    for inside, folders, files in os.walk(path):
        for one in (*folders, *files):
            full = os.path.join(inside, one)
            name = os.path.relpath(full, path)
            if os.path.islink(full):
                found.odd[name] = "a link"
            elif one in files:
                if os.path.isfile(full):
                    found.names.add(name)
                else:
                    found.odd[name] = "a pipe, a device or a socket"
    return found


@dataclass(frozen=True)
class Stored:
    """A model in MLflow's artifact store that is not on this machine; each file is fetched and deleted again."""

    model: StoredModel
    where: str

    @property
    def names(self) -> set[str]:
        return set(self.model.files)

    @property
    def odd(self) -> dict[str, str]:
        return {}

    def read(self, name: str) -> bytes:
        return self.model.read(name)

    def sha256(self, name: str) -> str:
        fetched = self.model.download([name]) / name
        try:
            return sha256_of(fetched)
        finally:
            fetched.unlink(missing_ok=True)


@dataclass(frozen=True)
class InStore:
    """A folder in an object store."""

    where: str
    names: set[str]
    odd: dict[str, str] = field(default_factory=dict)

    def read(self, name: str) -> bytes:
        return storage.read_bytes(PARAMETER, storage.join(self.where, name))

    def sha256(self, name: str) -> str:
        uri = storage.join(self.where, name)
        digest = hashlib.sha256()
        with storage.explained(PARAMETER, uri):
            filesystem, path = storage.filesystem_of(uri)
            with filesystem.open(path, "rb") as stream:
                while block := stream.read(BLOCK):
                    digest.update(block)
        return digest.hexdigest()


def place_of(model: StoredModel, uri: str) -> Place:
    """Return the files of a model in MLflow's store: its folder, where the store is on this machine."""
    return folder_at(model.local) if model.local else Stored(model, uri)


def place_at(uri: str) -> Place:
    """List what is at a URI; nothing there is an empty place. Raises as `storage.find_files`, and Outage."""
    if local := storage.local_path(uri):
        return folder_at(local)
    skipped: list[str] = []
    try:
        names = set(storage.find_files(PARAMETER, uri, skipped))
    except UserError as error:
        if error.problems[0].code != "URI-E0201":
            raise
        return InStore(uri, set())
    return InStore(uri, names | set(skipped))
