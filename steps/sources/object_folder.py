"""Read and write the objects below a URI: what a folder is on a disk, where there are no folders to rename.

Object stores have no locks, no renaming and no folders. What they do have is that an object appears whole or not at
all, and that a reader sees an object as soon as its writer was told that it is stored.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from steps.errors import Outage, Problem
from steps.faults import status_of
from steps.sources import bounded, storage

T = TypeVar("T")
AT_ONCE = 8
READ_ONLY = {"file", "hf"}  # a write to the Hub is a commit


def writable_schemes() -> set[str]:
    """Return the schemes of the stores that objects can be written to."""
    return storage.SCHEMES - READ_ONLY


def uri_problems(parameter: str, uri: str, code: str) -> list[Problem]:
    """Check the text of a URI that will be written to, without opening it; `code` is that of another scheme."""
    scheme = storage.scheme_of(uri)
    if scheme in READ_ONLY or scheme not in storage.SCHEMES:
        known = ", ".join(sorted(writable_schemes()))
        meant = storage.OTHER_NAMES.get(scheme)
        fix = f"write {meant}://" if meant in writable_schemes() else "name a folder, or a bucket or container"
        return [Problem(code, parameter, f"the scheme {scheme}://", f"a folder, or a URI with one of {known}", fix)]
    return storage.check_uri(parameter, uri)


@dataclass(frozen=True)
class ObjectFolder:
    """The objects below a URI, by their names relative to it.

    Every method raises UserError without access, and Outage if the store does not answer.
    """

    parameter: str
    """Parameter that the user gave the URI with, for messages."""
    uri: str

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        with self._explained():
            filesystem, path = storage.filesystem_of(self.uri)
            return filesystem, path.rstrip("/")

    def _explained(self) -> AbstractContextManager[None]:
        return storage.explained(self.parameter, self.uri, "read and write")

    def sizes(self, below: str = "") -> dict[str, int]:
        """List the objects, or those below one folder of it: name → bytes; empty if there are none."""
        with self._explained():
            filesystem, path = self._opened
            filesystem.invalidate_cache()
            try:
                found = filesystem.find(f"{path}/{below}".rstrip("/"), detail=True)
            except FileNotFoundError:
                return {}
            listed = {name.removeprefix(f"{path}/"): info for name, info in found.items()}
            return {name: int(info["size"]) for name, info in listed.items() if info["type"] == "file"}

    def read(self, name: str) -> bytes | None:
        """Return an object's content; None if there is none."""
        with self._explained():
            filesystem, path = self._opened
            try:
                content: bytes = filesystem.cat_file(f"{path}/{name}")
            except FileNotFoundError:
                return None
            return content

    def write(self, name: str, content: bytes) -> None:
        """Write a small object, or replace it."""
        with self._explained():
            filesystem, path = self._opened
            filesystem.pipe_file(f"{path}/{name}", content)

    def write_new(self, name: str, content: bytes) -> bool:
        """Write a small object unless there is one; return whether it was written.

        Some stand-ins of S3 know no condition: whoever needs to be the only one has to read the object again.
        """
        with self._explained():
            filesystem, path = self._opened
            azure = storage.scheme_of(self.uri) in ("az", "abfs", "abfss")
            only_new: dict[str, Any] = {"overwrite": False} if azure else {"mode": "create"}
            try:
                filesystem.pipe_file(f"{path}/{name}", content, **only_new)
            except FileExistsError:
                return False
            except Exception as error:
                status = status_of(error) or (status_of(error.__cause__) if error.__cause__ else None)
                if status not in (409, 412, 501):
                    raise
                if status != 501:  # S3: something is there, or is being written
                    return False
                filesystem.pipe_file(f"{path}/{name}", content)  # a stand-in that refuses conditions
        return True

    def put(self, file: Path, name: str) -> None:
        """Upload a file."""
        with self._explained():
            filesystem, path = self._opened
            upload = partial(filesystem.put_file, str(file), f"{path}/{name}")
            bounded.ended(upload, bounded.upload_seconds(file.stat().st_size))

    def fetch(self, name: str, target: Path) -> Path:
        """Download a folder, its sizes and digests compared with those that the store lists."""
        return storage.fetch(self.parameter, storage.join(self.uri, name), target)

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; those that are gone already are passed over."""
        filesystem, path = self._opened

        def remove(name: str) -> None:
            with suppress(FileNotFoundError):
                filesystem.rm_file(f"{path}/{name}")

        with self._explained():
            in_parallel(remove, names)

    def modified(self, name: str) -> datetime | None:
        """Return when an object was written, by the clock of the store; None if there is none."""
        with self._explained():
            filesystem, path = self._opened
            filesystem.invalidate_cache()
            try:
                written: datetime = filesystem.modified(f"{path}/{name}")
            except FileNotFoundError:
                return None
            return written

    def try_writing(self) -> None:
        """Write an object and delete it again; raises as all methods if that is not possible."""
        name = f".finetune-{secrets.token_hex(8)}"
        self.write(name, b"")
        self.delete([name])


def within(seconds: float, call: Callable[[], T], parameter: str, uri: str) -> T:
    """Return what a call to a store returns; raises Outage if that takes longer than `seconds`.

    Clients try again for minutes where nobody answers. The call goes on in its thread, which does not keep the process.
    """
    try:
        return bounded.ended(call, seconds)
    except bounded.NoAnswer:
        problem = Problem("URI-E0401", parameter, f"no answer within {seconds:g} s", f"an answer for {uri!r}",
                          "run again; if it fails again, check the network and the service")  # fmt: skip
        raise Outage(problem) from None


def in_parallel(do: Callable[[str], None], names: Iterable[str]) -> None:
    """Call a function with each name, several at a time; raises the first error when all calls have ended."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(do, names))
