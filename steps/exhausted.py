"""Whether an exception means that disk, memory, open files or processes ran out, whatever library raised it.

`exhausted` is the one place that decides this, for every step. The libraries have classes and words of their own for a
full disk, and often raise their error from one of the system, while another one is handled, or with the reason only in
a list or a text. So an exception is searched with all that it was raised from, beside and with.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from steps.errors import OutOfResources, Problem, StepError
from steps.redaction import masked
from steps.volumes import full_volume, refusals, told_of

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# The same in the words of libraries that raise other classes than OSError: safetensors, tokenizers, torch, sqlite.
QUOTA = re.compile(r"disk quota exceeded|\bos error 122\b|QuotaExceeded|\[Errno 122\]", re.IGNORECASE)
TOO_LARGE = re.compile(r"file too large|\bos error 27\b|FileTooLarge|\[Errno 27\]", re.IGNORECASE)
NO_SPACE_TEXT = re.compile(
    rf"no space left on device|\bos error 28\b|\[Errno 28\]|disk is full|StorageFull|insufficient shared memory|"
    rf"{QUOTA.pattern}|{TOO_LARGE.pattern}",
    re.IGNORECASE,
)
# What numpy and torch say where the system ends a write, without the reason.
WRITE_ENDED = re.compile(
    r"PytorchStreamWriter failed writing|iostream error|unexpected pos \d+ vs|requested and \d+ written"
)
# What others say for any failed write; only the disk tells the reason. sqlite knows ENOSPC, but no quota and no limit.
IO_ERROR = re.compile(r"failed to write|disk I/O error|write failed", re.IGNORECASE)
WRITE_FAILED = re.compile(rf"{IO_ERROR.pattern}|unable to open database file", re.IGNORECASE)
# Python's words where no file can be written in any folder for temporary files, whose reasons it has dropped.
NO_TEMPORARY = re.compile(r"No usable temporary directory found in \[(.*)\]")
NO_MEMORY_TEXT = re.compile(
    r"(?:can'?t|cannot|could not|unable to|failed to) (?:re)?allocate (?!memory in static TLS)|"
    r"(?:^|CUDA |HIP |XPU |backend |error: |Error\) )out of memory\b|\bbad[_ ]alloc\b|\bos error 12\b|\[Errno 12\]|"
    r"failed to map segment from shared object|\b(?:m|re|c)alloc(?: of size \d+)? failed|\bmmap failed|"
    r"Memory allocation (?:still )?failed|^MemoryError\b",
    re.IGNORECASE,
)
NO_THREAD_TEXT = re.compile(
    r"can't start new thread|\bos error 11\b|ThreadPoolBuildError|pthread_create|failed to spawn thread|"
    r"thread constructor failed|what\(\):\s+Resource temporarily unavailable",
    re.IGNORECASE,
)
NO_FILE_TEXT = re.compile(r"too many open files|\bos error (?:24|23)\b|\[Errno (?:24|23)\]", re.IGNORECASE)
MOST_SAID = 200  # characters of a library's own words


def exhausted(error: BaseException, step: str, *places: Path) -> OutOfResources | None:
    """Return the error of what ran out, with the limit that was reached; None if an exception means something else.

    `places` are written to besides those of the step, for an error that names no file.
    """
    return next((found for one in chain(error) if (found := _exhausted_by(one, step, *places))), None)


def told_by_code(code: int, place: Path, who: str) -> OutOfResources | None:
    """Return the error of a process that ended with 5, and whose disk took not even its error; None for other codes."""
    if code != OutOfResources.exit_code:
        return None
    return exhausted(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place)), who)


def _exhausted_by(error: BaseException, step: str, *places: Path) -> OutOfResources | None:
    """Do the same for one exception, without those that it was raised from."""
    if isinstance(error, StepError):
        return None
    found = _space(error, step, places) or _memory(error, step) or _files(error, step) or _threads(error, step)
    return OutOfResources(found) if found else None


def is_out_of_space(error: BaseException) -> bool:
    """Return whether an exception means that nothing more can be written, or was raised because of that."""
    return any(_lacks_space(one) for one in chain(error) if not isinstance(one, StepError))


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, and those that it was raised from, holds, or met while another one was handled."""
    for one in _linked(error, lambda inner: inner.__context__):
        if one is error or not _handled_before(one, error):
            yield one


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, and those that it was raised from or holds."""
    return _linked(error, lambda _: None)


def _linked(error: BaseException, beside: Callable[[BaseException], BaseException | None]) -> Iterator[BaseException]:
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        held = [one.__cause__, *one.args, getattr(one, "reason", None), getattr(one, "orig", None), beside(one)]
        held += getattr(one, "exceptions", ())
        waiting += [inner for inner in held if isinstance(inner, BaseException)]


def _handled_before(one: BaseException, error: BaseException) -> bool:
    """Return whether an exception that only preceded an error says nothing of it, as that was a test or a busy lock."""
    told = _lacks_space(one) or isinstance(one, MemoryError) or NO_MEMORY_TEXT.search(_text(one))
    return not told and all(one is not cause for cause in causes(error))


def _space(error: BaseException, step: str, places: tuple[Path, ...]) -> Problem | None:
    reason = _reason(error)
    if reason is None:
        return None
    path = _path_of(error)
    volume = full_volume(path, places)
    is_sure = volume.is_full or bool(path and reason)
    if not is_sure:  # a quota may be used up, or another volume may refuse whatever is written
        tried = refusals(places)
        wanted = {reason} if reason else NO_SPACE
        if refusing := next(((one, why) for one, why in tried.items() if why in wanted), None):
            (volume, reason), is_sure = refusing, True
        elif not reason and (errno.EIO in tried.values() or not _was_ended(error)):
            return None
    where = path or step
    if reason == errno.EFBIG or (not reason and not volume.is_full and _most_of_a_file()):
        most = _most_of_a_file()
        limit = f" of {told_of(most)} (ulimit -f)" if most else " of its file system"
        return Problem("DISK-E0102", where, f"a file larger than the limit{limit}", "a file as large as this step "
                       "needs", "raise the limit, or write to another volume")  # fmt: skip
    told = f"{volume}" if is_sure else f"a volume; the fullest of those of this step is {volume}"
    if reason == errno.EDQUOT:
        return Problem("DISK-E0102", where, f"no space left in the disk quota of {told}", "space for the files of "
                       "this step", "delete files there, have the quota raised, or use another volume")  # fmt: skip
    ended = not reason and not is_sure
    found = f"a write that the system ended ({_said(error)}) on {told}" if ended else f"no space left on {told}"
    return Problem("DISK-E0102", where, found, "space for the files of this step", volume.way_out)


def _reason(error: BaseException) -> int | None:
    """Return the number of a lack of space; 0 for a failed write whose reason was dropped, None for other errors."""
    number, text = getattr(error, "errno", None), _text(error)
    if isinstance(error, OSError) and number in NO_SPACE:
        return number
    if TOO_LARGE.search(text):
        return errno.EFBIG
    if QUOTA.search(text):
        return errno.EDQUOT
    if NO_SPACE_TEXT.search(text):
        return errno.ENOSPC
    return 0 if drops_reason(error) or NO_TEMPORARY.search(str(error)) else None


def _was_ended(error: BaseException) -> bool:
    """Return whether a failed write was ended by a limit, where every place takes files: a small one is below it."""
    text = _text(error)
    return bool(WRITE_ENDED.search(text) or (_most_of_a_file() and IO_ERROR.search(text)))


def drops_reason(error: BaseException) -> bool:
    """Return whether an exception tells of a write that failed, in the words of a library that drops the reason."""
    text = _text(error)
    return bool(WRITE_ENDED.search(text) or WRITE_FAILED.search(text))


def _path_of(error: BaseException) -> str:
    """Return the file that an error names, of two the one that was to be written; shutil.Error has lists of them."""
    listed = [one for one in error.args[0] if len(one) == 3] if isinstance(error, shutil.Error) and error.args else []
    listed = [str(to) for _, to, why in listed if NO_SPACE_TEXT.search(str(why))]
    named = getattr(error, "filename2", None) or getattr(error, "filename", None)
    return listed[0] if listed else str(named or "")


def _lacks_space(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return True
    text = _text(error)
    return bool(NO_SPACE_TEXT.search(text) or WRITE_ENDED.search(text))


def _memory(error: BaseException, step: str) -> Problem | None:
    number = error.errno if isinstance(error, OSError) else None
    known = isinstance(error, MemoryError) or number == errno.ENOMEM or type(error).__name__ == "OutOfMemoryError"
    if known or NO_MEMORY_TEXT.search(_text(error)):
        return lack_of_memory(step, _said(error))
    return None


def lack_of_memory(step: str, said: str) -> Problem:
    """Return the problem of a step that got no more memory; `said` is how that showed."""
    limit = memory_limit()
    found = f"not enough memory ({said})"
    fix = "request more memory for this step (its instance type), or let it hold less, such as by smaller batches"
    if limit:
        found += f", with a limit of {told_of(limit)} (ulimit -v)"
        fix = "raise the limit (ulimit -v), or remove it (ulimit -v unlimited)"
    return Problem("MEMORY-E0101", step, found, "enough memory for this step", fix)


def memory_limit() -> int:
    """Return how many bytes of memory this process may reserve (ulimit -v); 0 without a limit."""
    return _limit(resource.RLIMIT_AS)


def _files(error: BaseException, step: str) -> Problem | None:
    number = error.errno if isinstance(error, OSError) else None
    if number not in (errno.EMFILE, errno.ENFILE) and not NO_FILE_TEXT.search(_text(error)):
        return None
    where = str(getattr(error, "filename", None) or step)
    most = _limit(resource.RLIMIT_NOFILE)
    if number == errno.ENFILE:
        return Problem("MEMORY-E0102", where, "too many open files on this machine", "one more open file",
                       "raise the machine's limit of open files (fs.file-max)")  # fmt: skip
    return Problem("MEMORY-E0102", where, f"too many open files, with a limit of {most:,} (ulimit -n)",
                   "one more open file", f"raise the limit, such as with ulimit -n {max(4096, 4 * most)}")  # fmt: skip


def _threads(error: BaseException, step: str) -> Problem | None:
    number = error.errno if isinstance(error, OSError) else None
    if number != errno.EAGAIN and not NO_THREAD_TEXT.search(_text(error)):
        return None
    if limit := memory_limit():  # a thread's stack is memory, and fork copies the tables of all memory
        return Problem("MEMORY-E0103", step, f"no memory for another thread or process ({_said(error)}), with a limit "
                       f"of {told_of(limit)} (ulimit -v)", "enough memory for this step",
                       "raise the limit (ulimit -v), or remove it (ulimit -v unlimited)")  # fmt: skip
    most = _limit(resource.RLIMIT_NPROC)
    told = f", with a limit of {most:,} for this user (ulimit -u)" if most else ""
    return Problem("MEMORY-E0103", step, f"no more processes or threads ({_said(error)}){told}", "one more of them",
                   "raise the limit of processes (ulimit -u, or that of the pod)")  # fmt: skip


def _limit(which: int) -> int:
    soft = resource.getrlimit(which)[0]
    return 0 if soft == resource.RLIM_INFINITY or soft > sys.maxsize // 2 else soft


def _most_of_a_file() -> int:
    return _limit(resource.RLIMIT_FSIZE)


def _text(error: BaseException) -> str:
    """Return what an exception says, unless its number says it: the text then quotes the name of a file.

    shutil.Error has no number, but a list of (from, to, reason).
    """
    return "" if isinstance(error, StepError) or getattr(error, "errno", None) is not None else str(error)


def _said(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {masked(str(error))}".split()).removesuffix(":")
    return text if len(text) <= MOST_SAID else f"{text[: MOST_SAID - 1]}…"
