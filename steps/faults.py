"""Errors of the machine, of services and of a model's configuration that can arise in any step.

Steps explain their own errors where they know most. What rises beyond a step is looked up here, so that no full disk
(`steps/exhausted.py`) and no unreachable server is reported as a bug. The libraries wrap such errors in classes of
their own, so the exceptions that an error was raised from are searched as well.
"""

from __future__ import annotations

import errno
import re
import traceback
from pathlib import Path
from typing import Any

from steps.errors import Outage, Problem, StepError, UserError
from steps.exhausted import NO_TEMPORARY, causes, drops_reason, exhausted
from steps.lost import LOST, SHARED_MEMORY, lost
from steps.redaction import masked
from steps.volumes import refusals, volume_of
from steps.writing import DENIED, can_be_written, nearest_there, owners, ways_out

NO_WRITING = {
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
}
# The same, and a disk that does not work, in the words of libraries that raise other classes than OSError.
READ_ONLY = re.compile(r"read-only file system|\bos error 30\b|readonly database", re.IGNORECASE)
BROKEN = re.compile(r"input/output error|\bos error 5\b|disk I/O error", re.IGNORECASE)
NO_PLACE = {
    errno.ENAMETOOLONG: ("a path that is too long", "a shorter path"),
    errno.ELOOP: ("a link that leads to itself", "a file or folder"),
    errno.ENOTDIR: ("a file where a folder belongs", "a folder"),
    errno.EEXIST: ("a file where a folder belongs", "a folder"),
    errno.EISDIR: ("a folder where a file belongs", "a file"),
}
NO_ANSWER = {
    errno.ESTALE, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED,
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
# The functions of these libraries that make a model or a tokenizer of its files.
LOADERS = {"transformers", "peft"}
LOADING = "from_pretrained"
ITS_PLACE = ("pretrained_model_name_or_path", "model_id")  # names of their first parameter
DEVICES = re.compile(r"\b(CUDA|cuda|NCCL|cuDNN|CUBLAS)\b")  # a graphics card is no fault of a model's files
# What tokenizers says of a text, as a plain Exception.
NO_TOKEN = re.compile(r"(WordLevel|WordPiece|BPE|Unigram) error|unknown token but `unk_id` is missing")
TEMPORARY = {408, 425, 429, 500, 502, 503, 504}
# Answers that another request gets as well, although the clients report them like silence.
SAME_AGAIN = re.compile(
    r"certificate verify failed|CERTIFICATE_VERIFY_FAILED|OfflineModeIsEnabled|HF_HUB_OFFLINE|"
    r"with error code 4(?!08|25|29)\d\d"
)
NO_CREDENTIALS = re.compile(r"Credential|Authentication|GatedRepo")  # names of the clients' exceptions
MLFLOW_SILENT = re.compile(r"API request to .* failed|Max retries exceeded|Connection refused|timed out")


def known(error: BaseException, step: str) -> StepError | None:
    """Return the error of the machine or of a service behind an exception; None if it is neither.

    An error of ours is returned as it is, unless it was made of a lack of disk or memory and tells something else.
    """
    every = list(causes(error))
    if own := next((one for one in every if isinstance(one, StepError)), None):
        return _lacking(own, step) or own
    if gone := next((one for one in every if LOST.search(str(one))), None):
        return lost(step, f"a process of its own that was ended from outside ({_said(gone)})",
                    bool(SHARED_MEMORY.search(str(gone))))  # fmt: skip
    if lack := exhausted(error, step):
        return lack
    for one in every:
        if found := _of_the_machine(one, step) or _of_a_model(one) or _of_a_service(one, step):
            return found
    return next((found for one in every if (found := _of_loading(one))), None)


def _lacking(error: StepError, step: str) -> StepError | None:
    """Return the lack of disk or memory, or the disk, from which an error was raised that blames another one."""
    if not isinstance(error, Outage | UserError):
        return None
    of_a_disk = (found for one in causes(error) if one is not error and (found := _of_the_disk(one, step)))
    found = exhausted(error, step) or next(of_a_disk, None)
    if found:
        found.resume_from = error.resume_from
    return found


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


def _of_the_machine(error: BaseException, step: str) -> StepError | None:
    number = error.errno if isinstance(error, OSError) else None
    path = str(getattr(error, "filename", None) or "")
    where = path or step
    if of_the_disk := _of_the_disk(error, step):
        return of_the_disk
    if places := NO_TEMPORARY.search(str(error)):
        return UserError(Problem("FILE-E0101", "TMPDIR", f"no folder for temporary files among {_shortened(places[1])}",
                                 "a file or folder that this user may read and write",
                                 "set TMPDIR to a folder that this user may write"))  # fmt: skip
    if path and number in NO_WRITING:
        return UserError(_no_access(path, number))
    if path and number in NO_PLACE:
        found, expected = NO_PLACE[number]
        return UserError(Problem("FILE-E0102", _shortened(where), found, expected, "name another place"))
    if number in NO_ANSWER or _is_silence(error):
        return _silent(error, where)
    return None


def _of_the_disk(error: BaseException, step: str) -> StepError | None:
    """Return the error of a read-only file system or a broken disk.

    The first is the user's to change, like a missing permission: the same step cannot succeed at another try. A broken
    disk is one that a node with another one, or a later try, does not have.
    """
    number = _of_a_disk(error)
    if number is None and not drops_reason(error):
        return None
    path = str(getattr(error, "filename", None) or "")
    named = volume_of(Path(path)) if path else None
    if not named:
        refusing = [one for one, why in refusals().items() if why == (number or errno.EIO)]
        if number is None and not refusing:
            return None
        named, number = refusing[0] if len(refusing) == 1 else None, number or errno.EIO  # inputs may be read-only
    if number == errno.EROFS:
        place = str(named.place) if named else "a volume of this step"
        return UserError(
            Problem("FILE-E0101", path or place, f"a read-only file system: {place}", "a file or folder that this user "
                    "may read and write", "mount it without readOnly, or name another place")
        )  # fmt: skip
    if number == errno.EIO:
        found = f"{_said(error)}, on {named or 'a volume of this step'}"
        return Outage(
            Problem("DISK-E0401", path or step, found, "a disk that reads and writes", "run again; if it fails again, "
                    "use another volume or node, and check this one")
        )  # fmt: skip
    return None


def _of_a_disk(error: BaseException) -> int | None:
    """Return the number with which a disk refuses; None for other errors."""
    number, text = getattr(error, "errno", None), _text(error)
    if number == errno.EROFS or READ_ONLY.search(text):
        return errno.EROFS
    return errno.EIO if number == errno.EIO or BROKEN.search(text) else None


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


def _shortened(path: str) -> str:
    return path if len(path) <= 200 else f"{path[:120]}…"


def _text(error: BaseException) -> str:
    return "" if getattr(error, "errno", None) is not None else str(error)


def _of_a_model(error: BaseException) -> StepError | None:
    """Return the error of a configuration that no model has, or of a tokenizer without a token for a text."""
    if any(kind.__name__ == WRONG_CONFIG for kind in type(error).__mro__):
        return UserError(
            Problem("MODEL-E0125", "config.json", _said(error), "values of the types that this architecture has",
                    "correct them, or save the model again with save_pretrained")
        )  # fmt: skip
    if type(error) is Exception and NO_TOKEN.search(str(error)):
        return UserError(
            Problem("MODEL-E0135", "tokenizer", _said(error), "a tokenizer that has a token for every text",
                    "give it a token for unknown words (unk_token), or use texts with its words only")
        )  # fmt: skip
    return None


def _of_loading(error: BaseException) -> StepError | None:
    """Return the error of a model's files that cannot be loaded, of which the libraries say it in any class."""
    folder = _loaded_from(error)
    about_files = not isinstance(error, OSError) or (error.errno is None and "connect" not in str(error))
    if folder is None or not about_files or DEVICES.search(str(error)):
        return None
    return UserError(
        Problem("MODEL-E0127", folder, _said(error), "files that transformers loads", "save the model again with "
                "save_pretrained, or name another one; if it loads elsewhere, report this message")
    )  # fmt: skip


def _loaded_from(error: BaseException) -> str | None:
    """Return what was loaded when a library of models raised an error; None if it was doing something else."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        library = str(frame.f_globals.get("__name__", "")).split(".")[0]
        if library in LOADERS and frame.f_code.co_name == LOADING:
            return next((str(frame.f_locals[name]) for name in ITS_PLACE if name in frame.f_locals), "model")
    return None


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
