"""Check, list, digest and fetch files by URI.

A URI is a path or has one of the fsspec schemes in SCHEMES. What is fetched or read is compared with what the store
lists (`downloads.py`), and every call to a store ends (`bounded.py`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from steps.errors import Outage, OutOfResources, Problem, SecurityRefusal, StepError, UserError
from steps.exhausted import causes
from steps.faults import NO_CREDENTIALS, TEMPORARY, known, same_again, status_of
from steps.redaction import masked
from steps.sources import bounded, bucket_names, credentials, downloads, odd_files
from steps.writing import with_home

T = TypeVar("T")

# No http(s): with it, a parameter could make a pod read the cluster's metadata service.
SCHEMES = {"file", "s3", "gs", "gcs", "az", "abfs", "abfss", "hf"}
OTHER_NAMES = {"s3a": "s3", "s3n": "s3", "wasb": "abfs", "wasbs": "abfss", "huggingface": "hf"}
FORBIDDEN = {"\\"} | {chr(code) for code in range(32)} | {chr(127)}
MOST_FILES = 50_000  # in a local folder; max_files bounds those with rows
DOWNLOADS_AT_ONCE = downloads.AT_ONCE
TRANSFERS = ("get_file", "put_file")  # calls whose length depends on the size of a file
CLIENTS = (
    "botocore", "aiobotocore", "s3fs", "gcsfs", "adlfs", "azure", "google", "aiohttp", "huggingface_hub", "httpx",
    "httpcore", "requests", "urllib3", "fsspec",
)  # fmt: skip
NOISY = ("gcsfs", "azure")  # they log a traceback of every try; the message quotes the last one
CONNECTING = ("AWS_", "AZURE_", "GOOGLE_", "GCS_", "GCSFS_", "HF_", "STORAGE_")  # variables that clients read
# macOS and Spark write these beside data; they hold neither rows nor weights.
SYSTEM_FILES = ("._", ".DS_Store", "_SUCCESS", ".crc")

# Scheme → the environment that its connections were made with; without it after a refusal.
_environments: dict[str, dict[str, str]] = {}


class NoCredentials(UserError):
    """This process has no credentials for a store; another machine may have some."""


def check_uri(parameter: str, uri: str) -> list[Problem]:
    """Check the text of a URI without opening it; return the problems."""
    bad = sorted({letter for letter in uri if letter in FORBIDDEN or "\ud800" <= letter <= "\udfff"})
    if bad:
        return [
            Problem("URI-E0101", parameter, f"{uri!r} with {bad[0]!r}", "no backslash or control character",
                    "separate folders by /, or rename the file: the value is not passed to a shell")
        ]  # fmt: skip
    if (scheme := scheme_of(uri)) not in SCHEMES:
        known = ", ".join(sorted(SCHEMES - {"file"}))
        return [
            Problem("URI-E0102", parameter, f"the scheme {scheme}://", f"a path, or one of {known}",
                    f"write {OTHER_NAMES[scheme]}://" if scheme in OTHER_NAMES else
                    "copy the file to object storage or to a mounted folder")
        ]  # fmt: skip
    if scheme == "file":
        return []
    place = uri.split("://", 1)[1]
    if "::" in uri:  # fsspec would open the part behind it, by any scheme
        return [_malformed(parameter, uri, "two addresses")]
    if ".." in re.split("[/@]", place):
        return [_malformed(parameter, uri, "the folder ..")]
    if not place.split("/")[0]:
        return [_malformed(parameter, uri, "no bucket, container or owner")]
    wrong = bucket_names.wrong_name(scheme, place)
    return [_malformed(parameter, uri, "a name that none of its buckets can have")] if wrong else []


def _malformed(parameter: str, uri: str, found: str) -> Problem:
    return Problem(
        "URI-E0205",
        parameter,
        f"{found} in {masked(uri)!r}",
        "a URI that this store understands",
        "write s3://bucket/path, gs://bucket/path, az://container/path or hf://datasets/owner/name/path",
    )


def scheme_of(uri: str) -> str:
    """Return the scheme of a URI; `file` for a plain path."""
    return uri.split("://", 1)[0].lower() if "://" in uri else "file"


def find_files(parameter: str, uri: str, skipped: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """List the files at a URI: {"": info} for one file, {relative path: info} for a folder.

    `info` holds the size and an identity (etag, version or commit; empty for local files). The names of files that
    macOS or Spark wrote beside the data are left out and appended to `skipped`.
    Raises UserError when nothing is there or access is denied, Outage when the store does not answer.
    """
    with explained(parameter, uri):
        filesystem, path = filesystem_of(uri)
        # isfile and isdir would answer no also where the store does not answer
        there = _asked(uri, partial(_info, filesystem, path))
        if there["type"] == "file":
            return {"": downloads.listed(there)}
        if there["type"] != "directory":  # a device, or a link to nothing
            raise FileNotFoundError(uri)
        if folder := local_path(uri):
            odd_files.refuse_odd_files(parameter, folder, MOST_FILES)
        found = _asked(uri, partial(filesystem.find, path, detail=True))
        prefix = path.rstrip("/") + "/"
        names = {name.removeprefix(prefix): downloads.listed(info) for name, info in found.items()}
        if skipped is not None:
            skipped += [name for name in names if _is_system_file(name)]
        return {name: info for name, info in names.items() if not _is_system_file(name)}


def _info(filesystem: Any, path: str) -> dict[str, Any]:
    told: dict[str, Any] = filesystem.info(path)
    if told["type"] == "file":
        downloads.refuse_other_machine(filesystem, path, downloads.listed(told))
    return told


def _asked(uri: str, call: Callable[[], T]) -> T:
    """Return a store's answer; what fails soon and may pass is tried again, as clients repeat only some requests."""
    return bounded.again(call, partial(_may_pass, uri))


def _may_pass(uri: str, error: Exception) -> bool:
    if local_path(uri) or isinstance(error, downloads.Replaced | downloads.WrongBytes):
        return False
    try:
        with explained("", uri):
            raise error
    except Outage as told:
        return told.transient and not same_again(error)
    except Exception:
        return False


def refuse_links_out(parameter: str, uri: str, names: Iterable[str], code: str) -> None:
    """Raise SecurityRefusal for a link in a local folder that leads out of it."""
    if folder := local_path(uri):
        odd_files.refuse_links_out(parameter, folder, names, code)


def find_matches(parameter: str, pattern: str) -> dict[str, dict[str, Any]]:
    """List the files that a pattern (`*`, `**`, `?`, `[…]`) matches: {URI: info}. Raises as `find_files`."""
    with explained(parameter, pattern):
        filesystem, path = filesystem_of(pattern)
        folder = fixed_folder(path)
        found = _asked(pattern, partial(filesystem.glob, path, detail=True))
        return {
            fixed_folder(pattern) + name.removeprefix(folder): downloads.listed(info)
            for name, info in found.items()
            if info["type"] == "file"
        }


def is_pattern(uri: str) -> bool:
    """Return whether a URI has wildcards and no file of exactly that name exists."""
    if not set("*?[") & set(uri):
        return False
    local = local_path(uri)
    return local is None or not local.exists()


def fixed_folder(pattern: str) -> str:
    """Return the part of a pattern up to and including the last slash before its first wildcard."""
    first = min(pattern.index(mark) for mark in "*?[" if mark in pattern)
    return pattern[: pattern.rfind("/", 0, first) + 1]


def digest_of(parameter: str, uri: str) -> str:
    """Digest the files at a URI: content of local files, etags and sizes in object stores.

    Raises as `find_files`.
    """
    from steps.artifacts import MANIFEST, sha256_of

    digest = hashlib.sha256()
    local = local_path(uri)
    with explained(parameter, uri):
        for name, info in sorted(find_files(parameter, uri).items()):
            if name == MANIFEST:
                continue
            identity = sha256_of(local / name if name else local) if local else f"{info['size']} {info['identity']}"
            digest.update(f"{name}\0{identity}\n".encode())
    return digest.hexdigest()


def fetch(parameter: str, uri: str, target: Path) -> Path:
    """Download a file or folder, several files in parallel; a local path is returned unchanged, without a copy.

    Raises as `find_files`, and Outage if other bytes or objects arrive twice than those that the store lists.
    """
    if local := local_path(uri):
        find_files(parameter, uri)
        return local
    with explained(parameter, uri):
        try:
            return _fetch(parameter, uri, target)
        except downloads.Replaced:  # by a whole new folder, as likely as not
            filesystem_of(uri)[0].invalidate_cache()
            return _fetch(parameter, uri, target)


def _fetch(parameter: str, uri: str, target: Path) -> Path:
    files = find_files(parameter, uri)
    filesystem, path = filesystem_of(uri)
    base = target if "" not in files else target.parent
    if outside := next((name for name in files if ".." in Path(name).parts or name.startswith("/")), ""):
        raise SecurityRefusal(
            Problem("URI-E0103", parameter, f"the object {outside!r} in {uri!r}", "names inside of the folder",
                    "rename it", why="it would be written outside of the folder for downloads")
        )  # fmt: skip
    every = [
        downloads.Wanted(f"{path}/{name}" if name else path, info, base / (name or target.name))
        for name, info in files.items()
    ]
    try:
        _asked(uri, partial(downloads.bring, filesystem, every))
    except downloads.Replaced:
        for one in every:
            one.place.unlink(missing_ok=True)
        raise
    return target


def read_bytes(parameter: str, uri: str, limit: int = -1) -> bytes:
    """Read the first `limit` bytes of a file, or all of it with -1. Raises as `find_files`."""
    with explained(parameter, uri):
        filesystem, path = filesystem_of(uri)
        if local_path(uri) is None:
            return _asked(uri, partial(downloads.read, filesystem, path, limit))
        _refuse_other_than_file(Path(path))
        with filesystem.open(path, "rb") as stream:
            return bytes(stream.read(limit))


def _refuse_other_than_file(path: Path) -> None:
    """Raise OSError for what would be read without an end, such as a pipe or a device."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def local_path(uri: str) -> Path | None:
    """Convert a local URI to a path; None for object stores."""
    return with_home(uri.removeprefix("file://")) if scheme_of(uri) == "file" else None


def join(uri: str, name: str) -> str:
    """Return the URI of a file inside a folder URI."""
    return f"{uri.rstrip('/')}/{name}" if name else uri


def filesystem_of(uri: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URI, and the path in it. Raises SecurityRefusal for another scheme."""
    import fsspec

    if problems := check_uri("uri", uri):
        raise SecurityRefusal(problems)
    if local := local_path(uri):
        return fsspec.filesystem("file"), str(local.absolute())
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    scheme, _, rest = uri.partition("://")
    _forget_old_connections(scheme.lower())
    filesystem, path = fsspec.core.url_to_fs(f"{scheme.lower()}://{rest}")
    return bounded.Bounded(filesystem, apart=TRANSFERS), path


def _forget_old_connections(scheme: str) -> None:
    """Connect anew if credentials or an endpoint may have changed: fsspec keeps the first connection of a process.

    Notebooks give credentials after a refusal, and sweeps in one process may use several stores.
    """
    import fsspec

    named = {name: value for name, value in os.environ.items() if name.startswith(CONNECTING)}
    if _environments.get(scheme) != named:
        fsspec.get_filesystem_class(scheme).clear_instance_cache()
    _environments[scheme] = named


def _is_system_file(name: str) -> bool:
    last = os.path.basename(name)
    return last.startswith(SYSTEM_FILES[0]) or last in SYSTEM_FILES[1:3] or last.endswith(SYSTEM_FILES[3])


@contextmanager
def explained(parameter: str, uri: str, access: str = "read") -> Iterator[None]:
    """Turn errors of a store into our errors, which say who must act; `access` is what is needed there."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(
            Problem("URI-E0201", parameter, f"nothing at {uri!r}", "a file or folder that exists", _hint(uri))
        ) from None
    except PermissionError as error:
        _environments.pop(scheme_of(uri), None)
        raise UserError(
            Problem("URI-E0202", parameter, f"no access to {uri!r} ({error})", f"credentials with {access} access",
                    f"give the run's service account or secret {access} access{credentials.here(scheme_of(uri))}")
        ) from None  # fmt: skip
    except ImportError as error:
        raise UserError(
            Problem("URI-E0203", parameter, f"{uri!r}, whose client package is missing ({error})",
                    "a store whose client is installed", "install that package into the image, or copy the files to s3")
        ) from None  # fmt: skip
    except StepError:
        raise
    except Exception as error:
        found = known(error, parameter)
        if isinstance(found, OutOfResources):
            raise found from error
        if local_path(uri):
            raise _of_a_path(parameter, uri, found) or error from error
        if isinstance(found, UserError) or _lacks_credentials(error):
            _environments.pop(scheme_of(uri), None)
            raise NoCredentials(
                Problem("URI-E0202", parameter, f"no credentials for {uri!r} ({type(error).__name__})",
                        f"credentials with {access} access", credentials.where_to_give(scheme_of(uri)))
            ) from None  # fmt: skip
        garbage = isinstance(error, json.JSONDecodeError)  # the answer of another machine
        if (isinstance(error, ValueError) and not garbage) or "Validation" in type(error).__name__:
            raise UserError(_malformed(parameter, uri, " ".join(str(error).split())[:200])) from None
        if not (garbage or isinstance(error, OSError) or type(error).__module__.startswith(CLIENTS)):
            raise
        # A store answers 412 to a request for a part of an object that was replaced.
        replaced = isinstance(error, downloads.Replaced)
        status = next((code for one in causes(error) if (code := status_of(one)) and not replaced), None)
        # S3 answers 400 to a token that has expired; there is no more to an answer where a head was asked for.
        if status in (400, 401, 403):
            raise UserError(
                Problem("URI-E0202", parameter, f"a store that refuses {uri!r} ({type(error).__name__})",
                        f"credentials with {access} access that have not expired",
                        credentials.where_to_give(scheme_of(uri)))
            ) from None  # fmt: skip
        if status and 400 <= status < 500 and status not in TEMPORARY:
            raise UserError(
                Problem("URI-E0201", parameter, f"nothing at {uri!r} ({type(error).__name__})",
                        "a file or folder that exists", _hint(uri))
            ) from None  # fmt: skip
        said = " ".join(str(error).split())[:200]
        raise Outage(
            Problem("URI-E0401", parameter, f"{type(error).__name__}: {said}", f"an answer for {uri!r}",
                    "run again; if it fails again, check the network and the service")
        ) from error  # fmt: skip


def _of_a_path(parameter: str, uri: str, found: StepError | None) -> StepError | None:
    """Return the error of a local path, under the name of its parameter."""
    if not isinstance(found, UserError):
        return found
    text = uri if len(uri) <= 200 else f"{uri[:199]}…"
    what = found.problems[0]
    return UserError(Problem("URI-E0204", parameter, f"{what.found} at {text!r}", what.expected, "correct the path"))


def _lacks_credentials(error: Exception) -> bool:
    if isinstance(error, ValueError):  # adlfs
        return "Must provide either a connection_string or account_name" in str(error)
    return bool(NO_CREDENTIALS.search(type(error).__name__))


def _hint(uri: str) -> str:
    local = local_path(uri)
    if local is None:
        return "correct the URI"
    scheme, _, rest = uri.partition(":/")
    if scheme.lower() in SCHEMES and rest:
        return f"write {scheme}://{rest.lstrip('/')}, with two slashes"
    parent = local.parent
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    return f"correct the path; the nearest folder that exists is {parent.absolute()}"
