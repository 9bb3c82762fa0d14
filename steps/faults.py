"""Errors of the machine, of services and of a model's configuration that can arise in any step.

Steps explain their own errors where they know most. What rises beyond a step is looked up here, so that no full disk
and no unreachable server is reported as a bug. The libraries wrap such errors in classes of their own, so the
exceptions that an error was raised from are searched as well.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steps.errors import Outage, OutOfResources, Problem, StepError, UserError
from steps.redaction import masked
from steps.writing import DENIED, can_be_written, nearest_there, owners, ways_out

NO_SPACE = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "no space left in the disk quota",
    errno.EFBIG: "a file larger than the limit of files here (ulimit -f)",
}
# The same in the words of libraries that raise other classes than OSError: safetensors, tokenizers, torch, sqlite.
NO_SPACE_TEXT = re.compile(
    r"no space left on device|disk quota exceeded|file too large|\bos error (28|122|27)\b|disk is full|StorageFull|"
    r"QuotaExceeded|FileTooLarge",
    re.IGNORECASE,
)
# What numpy and torch say where the system ends a write, without the reason.
WRITE_ENDED = re.compile(
    r"PytorchStreamWriter failed writing|iostream error|unexpected pos \d+ vs|requested and \d+ written"
)
# What others say for any failed write: a lack of space if there is almost none.
WRITE_FAILED = re.compile(r"failed to write|disk I/O error|write failed", re.IGNORECASE)
NEARLY_FULL = 16 * 1024 * 1024  # bytes
NO_WRITING = {
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "a read-only file system",
}
NO_PLACE = {
    errno.ENAMETOOLONG: ("a path that is too long", "a shorter path"),
    errno.ELOOP: ("a link that leads to itself", "a file or folder"),
    errno.ENOTDIR: ("a file where a folder belongs", "a folder"),
    errno.EEXIST: ("a file where a folder belongs", "a folder"),
    errno.EISDIR: ("a folder where a file belongs", "a file"),
}
NO_MORE = {
    errno.EMFILE: ("too many open files", "raise the limit of open files (ulimit -n)"),
    errno.ENFILE: ("too many open files", "raise the limit of open files of this machine"),
    errno.ENOMEM: ("not enough memory", "request more memory for this step"),
    errno.EAGAIN: ("no more processes or threads", "raise the limit of processes (ulimit -u)"),
}
NO_ANSWER = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED,
    errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EREMOTEIO, errno.ENOTCONN,
}  # fmt: skip
CLIENTS = {
    "aiobotocore", "aiohttp", "azure", "botocore", "fsspec", "gcsfs", "google", "http", "httpcore", "httpx",
    "huggingface_hub", "mlflow", "requests", "s3fs", "socket", "ssl", "urllib", "urllib3",
}  # fmt: skip
# Names of the clients' exceptions that mean: no answer.
SILENT = re.compile(
    r"Connect|Timeout|TimedOut|Unreachable|ReadError|WriteError|PoolError|NetworkError|ProtocolError|IncompleteRead|"
    r"MaxRetry|NewConnection|NameResolution|Disconnected|TransportError|ServiceRequestError|ServiceResponseError|"
    r"ProxyError|SSLError|gaierror|URLError|LocalEntryNotFound|OfflineMode|EndpointConnection|ChunkedEncoding|TooManyRedirects"
)
WRONG_CONFIG = "StrictDataclassError"  # what transformers raises for a model's configuration; of huggingface_hub
TEMPORARY = {408, 425, 429, 500, 502, 503, 504}
# Answers that another request gets as well, although the clients report them like silence.
SAME_AGAIN = re.compile(
    r"certificate verify failed|CERTIFICATE_VERIFY_FAILED|OfflineModeIsEnabled|HF_HUB_OFFLINE|"
    r"with error code 4(?!08|25|29)\d\d"
)
NO_CREDENTIALS = re.compile(r"Credential|Authentication|GatedRepo")  # names of the clients' exceptions
MLFLOW_SILENT = re.compile(r"API request to .* failed|Max retries exceeded|Connection refused|timed out")


def known(error: BaseException, step: str) -> StepError | None:
    """Return the error of the machine or of a service behind an exception; None if it is neither."""
    for one in causes(error):
        found = (
            one
            if isinstance(one, StepError)
            else (_of_the_machine(one, step) or _of_a_model(one) or _of_a_service(one, step))
        )
        if found:
            return found
    return None


def same_again(error: BaseException) -> bool:
    """Return whether a service would give the same answer seconds later, such as 404 or a certificate that is wrong."""
    return any(_is_answer(one) or SAME_AGAIN.search(f"{type(one).__name__} {one}") for one in causes(error))


def refuses_access(error: BaseException) -> BaseException | None:
    """Return the exception that says that a service takes no credentials or not these; None without one."""
    for one in causes(error):
        if status_of(one) in (401, 403) or NO_CREDENTIALS.search(type(one).__name__):
            return one
    return None


def _is_answer(error: BaseException) -> bool:
    status = status_of(error)
    return status is not None and 400 <= status < 500 and status not in TEMPORARY


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, and those that it was raised from or holds."""
    waiting, seen = [error], set()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        held = [one.__cause__, *one.args, getattr(one, "reason", None), getattr(one, "orig", None)]
        held += getattr(one, "exceptions", ())
        if one.__context__ is not None and disk_is_full(one.__context__):
            held.append(one.__context__)
        waiting += [inner for inner in held if isinstance(inner, BaseException)]


def disk_is_full(error: BaseException) -> bool:
    """Return whether an exception means that nothing more can be written."""
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return True
    text = "" if isinstance(error, StepError) else str(error)
    return bool(NO_SPACE_TEXT.search(text) or WRITE_ENDED.search(text))


def _of_the_machine(error: BaseException, step: str) -> StepError | None:
    number = error.errno if isinstance(error, OSError) else None
    path = str(getattr(error, "filename", None) or "")
    where = path or step
    if isinstance(error, MemoryError):
        return _no_more(step, f"MemoryError: {error}", "enough memory", "request more memory for this step")
    if disk_is_full(error) or (WRITE_FAILED.search(str(error)) and _nearly_full(path)):
        said = NO_SPACE.get(number or 0, NO_SPACE[errno.ENOSPC])
        if WRITE_ENDED.search(str(error)):
            said = f"a write that the system ended ({_said(error)})"
        return OutOfResources(
            Problem("DISK-E0102", where, said, "space for the files of this step", "free disk space, use a larger "
                    "volume, or set TMPDIR to a folder on one")
        )  # fmt: skip
    if number in NO_MORE:
        return _no_more(where, NO_MORE[number][0], "enough of it", NO_MORE[number][1])
    if path and number in NO_WRITING:
        return UserError(_no_access(path, number))
    if path and number in NO_PLACE:
        found, expected = NO_PLACE[number]
        return UserError(Problem("FILE-E0102", _shortened(where), found, expected, "name another place"))
    if number in NO_ANSWER or _is_silence(error):
        return _silent(error, where)
    return None


def _no_access(path: str, number: int) -> Problem:
    """Return the problem of a file or folder that this user may not use, with its owner and the ways out."""
    there = nearest_there(Path(path).absolute())
    found, fix = NO_WRITING[number], "give this user access, or name another place"
    if number in DENIED:
        found = f"{found}: {'it' if str(there) == path else there} {owners(there)}"
        if not can_be_written(there if there.is_dir() else there.parent):
            fix = f"{ways_out(there)}; or name another place"
    return Problem("FILE-E0101", path, found, "a file or folder that this user may read and write", fix)


def _is_silence(error: BaseException) -> bool:
    """Return whether a connection failed; a broken pipe is a reader of our output that has ended."""
    return isinstance(error, TimeoutError | ConnectionError) and not isinstance(error, BrokenPipeError)


def _nearly_full(path: str) -> bool:
    places = {Path(path).parent if path else Path.cwd(), Path.cwd(), Path(os.environ.get("TMPDIR", "/tmp"))}
    return any(shutil.disk_usage(place).free < NEARLY_FULL for place in places if place.is_dir())


def _no_more(where: str, found: str, expected: str, fix: str) -> OutOfResources:
    return OutOfResources(Problem("MEMORY-E0101", where, found, expected, fix))


def _shortened(path: str) -> str:
    return path if len(path) <= 200 else f"{path[:120]}…"


def _of_a_model(error: BaseException) -> StepError | None:
    """Return the error of a config.json with a value of a type that the architecture has not."""
    if not any(kind.__name__ == WRONG_CONFIG for kind in type(error).__mro__):
        return None
    return UserError(
        Problem("MODEL-E0125", "config.json", _said(error), "values of the types that this architecture has",
                "correct them, or save the model again with save_pretrained")
    )  # fmt: skip


def _of_a_service(error: BaseException, step: str) -> StepError | None:
    kinds = [kind for kind in type(error).__mro__ if kind.__module__.split(".")[0] in CLIENTS]
    if not kinds:
        return None
    status = status_of(error)
    if status in (401, 403):
        return UserError(
            Problem("SERVICE-E0201", step, f"{_said(error)}", "credentials that may read this",
                    "provide them by a secret or the environment")
        )  # fmt: skip
    if status in TEMPORARY or (status is None and any(SILENT.search(kind.__name__) for kind in kinds)):
        return _silent(error, step)
    if kinds[0].__name__ in ("MlflowException", "RestException") and MLFLOW_SILENT.search(str(error)):
        return _silent(error, step)
    return None


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that a client's exception holds; None without one."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = getattr(response, "status_code", None) or getattr(error, "status", None)
    return status if isinstance(status, int) else None


def _silent(error: BaseException, where: str) -> Outage:
    return Outage(Problem("SERVICE-E0401", where, _said(error), "an answer", "run again; if it fails again, check the "
                          "network and the service"))  # fmt: skip


def _said(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {masked(str(error))}".split())
    return text if len(text) <= 200 else f"{text[:199]}…"
