"""Files behind URIs: what may be opened, what it means now, and how it gets here.

A path or any of the fsspec schemes in SCHEMES. Every fetch compares sizes, because an object store client can return
a cut body without an error.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steps.errors import Outage, Problem, SecurityRefusal, UserError

# No http(s): a pod that opens any address a parameter names can be made to read the cluster's metadata service.
SCHEMES = {"file", "s3", "gs", "gcs", "az", "abfs", "hf"}
FORBIDDEN = set("\\'") | {chr(code) for code in range(32)} | {chr(127)}
DOWNLOADS_AT_ONCE = 8
CLIENTS = ("botocore", "aiobotocore", "s3fs", "gcsfs", "adlfs", "azure", "google", "aiohttp")
# macOS and Spark leave these beside data; they are no rows and no weights.
LITTER = ("._", ".DS_Store", "_SUCCESS", ".crc")


def check_uri(parameter: str, uri: str) -> list[Problem]:
    """Say what is wrong with a URI's text, without opening it."""
    bad = sorted(FORBIDDEN & set(uri))
    if bad:
        return [
            Problem("URI-E0101", parameter, f"{uri!r} with {bad[0]!r}", "no backslash, quote or control character",
                    "rename the file, or quote nothing: the value is never passed to a shell")
        ]  # fmt: skip
    if (scheme := scheme_of(uri)) not in SCHEMES:
        known = ", ".join(sorted(SCHEMES - {"file"}))
        return [
            Problem("URI-E0102", parameter, f"the scheme {scheme}://", f"a path, or one of {known}",
                    "copy the file to object storage or to a mounted folder")
        ]  # fmt: skip
    return []


def scheme_of(uri: str) -> str:
    """Name the scheme of a URI; a plain path is `file`."""
    return uri.split("://", 1)[0].lower() if "://" in uri else "file"


def find_files(parameter: str, uri: str, litter: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """List what a URI names: {"": info} for one file, {relative path: info} for a folder.

    `info` holds size and an identity (etag, version, commit or, for local files, nothing). The names of files that
    are left out, because macOS or Spark wrote them beside the data, are appended to `litter`.
    Raises UserError when nothing is there or access is denied, Outage when the store does not answer.
    """
    with _explained(parameter, uri):
        filesystem, path = _filesystem(uri)
        if filesystem.isfile(path):
            return {"": _info(filesystem.info(path))}
        if not filesystem.isdir(path):
            raise FileNotFoundError(uri)
        found = filesystem.find(path, detail=True)
        prefix = path.rstrip("/") + "/"
        names = {name.removeprefix(prefix): _info(info) for name, info in found.items()}
        if litter is not None:
            litter += [name for name in names if _is_litter(name)]
        return {name: info for name, info in names.items() if not _is_litter(name)}


def find_matches(parameter: str, pattern: str) -> dict[str, dict[str, Any]]:
    """List the files that a pattern (`*`, `**`, `?`, `[…]`) matches: {URI: info}. Raises as `find_files`."""
    with _explained(parameter, pattern):
        filesystem, path = _filesystem(pattern)
        folder = fixed_folder(path)
        found = filesystem.glob(path, detail=True)
        return {
            fixed_folder(pattern) + name.removeprefix(folder): _info(info)
            for name, info in found.items()
            if info["type"] == "file"
        }


def is_pattern(uri: str) -> bool:
    """Whether a URI has wildcards and is no file of that very name."""
    if not set("*?[") & set(uri):
        return False
    local = local_path(uri)
    return local is None or not local.exists()


def fixed_folder(pattern: str) -> str:
    """Give the part of a pattern before its first wildcard, up to and with the last slash."""
    first = min(pattern.index(mark) for mark in "*?[" if mark in pattern)
    return pattern[: pattern.rfind("/", 0, first) + 1]


def digest_of(parameter: str, uri: str) -> str:
    """Digest what a URI means now: content for local files, etags and sizes for object stores.

    Raises as `find_files`.
    """
    from steps.artifacts import MANIFEST, sha256_of

    digest = hashlib.sha256()
    local = local_path(uri)
    with _explained(parameter, uri):
        for name, info in sorted(find_files(parameter, uri).items()):
            if name == MANIFEST:
                continue
            identity = sha256_of(local / name if name else local) if local else f"{info['size']} {info['identity']}"
            digest.update(f"{name}\0{identity}\n".encode())
    return digest.hexdigest()


def fetch(parameter: str, uri: str, target: Path) -> Path:
    """Bring a file or folder here, several files at a time; a local path is returned as it is, without a copy.

    Raises as `find_files`, and Outage when fewer bytes arrived than the store promised.
    """
    if local := local_path(uri):
        find_files(parameter, uri)
        return local
    files = find_files(parameter, uri)
    filesystem, path = _filesystem(uri)
    base = target if "" not in files else target.parent
    jobs = {name or target.name: (f"{path}/{name}" if name else path) for name in files}
    sizes = {name or target.name: info["size"] for name, info in files.items()}

    def bring(name: str) -> None:
        place = base / name
        place.parent.mkdir(parents=True, exist_ok=True)
        filesystem.get_file(jobs[name], str(place))
        if place.stat().st_size != sizes[name]:
            raise OSError(f"{place.stat().st_size} of {sizes[name]} bytes of {jobs[name]} arrived")

    with _explained(parameter, uri), ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        list(pool.map(bring, jobs))
    return target


def read_bytes(parameter: str, uri: str, limit: int = -1) -> bytes:
    """Read the first `limit` bytes of a file; all of it with -1. Raises as `find_files`."""
    with _explained(parameter, uri):
        filesystem, path = _filesystem(uri)
        with filesystem.open(path, "rb") as stream:
            return stream.read(limit)


def local_path(uri: str) -> Path | None:
    """Turn a local URI into a path; None for object stores."""
    return Path(uri.removeprefix("file://")).expanduser() if scheme_of(uri) == "file" else None


def join(uri: str, name: str) -> str:
    """Name a file inside a folder URI."""
    return f"{uri.rstrip('/')}/{name}" if name else uri


def _filesystem(uri: str) -> tuple[Any, str]:
    import fsspec

    if problems := check_uri("uri", uri):
        raise SecurityRefusal(problems)
    if local := local_path(uri):
        return fsspec.filesystem("file"), str(local.absolute())
    return fsspec.core.url_to_fs(uri)


def _info(info: dict[str, Any]) -> dict[str, Any]:
    named = ("VersionId", "ETag", "etag", "sha256", "blob_id")  # the last is the Hub's
    identity = next((info[name] for name in named if info.get(name)), "")
    return {"size": info["size"], "identity": str(identity).strip('"')}


def _is_litter(name: str) -> bool:
    last = os.path.basename(name)
    return last.startswith(LITTER[0]) or last in LITTER[1:3] or last.endswith(LITTER[3])


@contextmanager
def _explained(parameter: str, uri: str) -> Iterator[None]:
    """Turn what a store says into whose move it is."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(
            Problem("URI-E0201", parameter, f"nothing at {uri!r}", "a file or folder that exists", _hint(uri))
        ) from None
    except PermissionError as error:
        raise UserError(
            Problem("URI-E0202", parameter, f"no access to {uri!r} ({error})", "credentials that may read it",
                    "give the run's service account or secret read access")
        ) from None  # fmt: skip
    except ImportError as error:
        raise UserError(
            Problem("URI-E0203", parameter, f"{uri!r}, whose client is missing ({error})", "a store with a client",
                    "install that package into the image, or copy the files to s3")
        ) from None  # fmt: skip
    except Exception as error:
        if not isinstance(error, OSError) and not type(error).__module__.startswith(CLIENTS):
            raise
        if "Credential" in type(error).__name__:
            raise UserError(
                Problem("URI-E0202", parameter, f"no credentials for {uri!r}", "credentials that may read it",
                        "give them to the run by a service account, a secret or the environment")
            ) from None  # fmt: skip
        if local_path(uri):
            raise
        raise Outage(
            Problem("URI-E0401", parameter, f"{type(error).__name__}: {error}", f"an answer for {uri!r}",
                    "run again; if it stays, look at the object store")
        ) from error  # fmt: skip


def _hint(uri: str) -> str:
    local = local_path(uri)
    if local is None:
        return "correct the URI"
    parent = local.parent
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    return f"correct the path; the nearest folder that exists is {parent.absolute()}"
