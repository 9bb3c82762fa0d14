"""Removes credentials from what is stored, sent, printed or logged.

A value that is stored or sent goes through `masked`. What a process prints goes through its stdout and stderr, whoever
prints it: our log, a library, a traceback, a function of the user. `mask_output` puts the filter there. Values that are
digested, compared or passed to another step are never masked.
"""

from __future__ import annotations

import codecs
import io
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, BinaryIO, TextIO, cast

from steps.secrets import HIDDEN, hidden_parts, names_secret, without_parts, without_secrets
from steps.secrets import without_credentials as without_credentials

REMEMBERED = 400  # characters of a line that were printed before: "password:" may be, its value follows
KEY_LINES = 200  # of a private key, at most
_BEGINS = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY")
_OF_KEY = re.compile(r"[A-Za-z0-9+/=]{16,}|[A-Za-z0-9+/]{2,}={1,2}")


def masked(value: Any, clean: Callable[[str], str] = without_secrets) -> Any:
    """Return a JSON value without the credentials in its strings and keys, and in fields that are named so."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        named = isinstance(value.get("name"), str) and names_secret(value["name"])  # {"name": …, "value": …}
        return {
            masked(key, clean): HIDDEN
            if _is_told(item) and isinstance(key, str) and (names_secret(key) or (named and key == "value"))
            else masked(item, clean)
            for key, item in value.items()
        }
    return [masked(item, clean) for item in value] if isinstance(value, list | tuple) else value


def _is_told(item: Any) -> bool:
    return (isinstance(item, str) and bool(item)) or (isinstance(item, int | float) and not isinstance(item, bool))


class Printed:
    """What was printed so far of a line or of a private key, so that what follows can be judged."""

    def __init__(self) -> None:
        self.line = ""
        self.left = 0
        """How many more lines may belong to a private key."""

    def masked(self, text: str) -> str:
        """Return the next piece of a text without credentials."""
        if self.left:
            text = "".join(self._of_key(line) for line in text.splitlines(keepends=True))
        if not text or text.isspace():
            told = text
        else:
            whole, known = self.line + text, len(self.line)
            parts = [(max(start, known), end, mark) for start, end, mark in hidden_parts(whole, False) if end > known]
            told = without_parts(whole, parts)[known:] if parts else text
            if begins := list(_BEGINS.finditer(text)):
                self.left = 0 if "-----END" in text[begins[-1].end() :] else KEY_LINES
        ended = max(text.rfind("\n"), text.rfind("\r")) + 1
        self.line = (text[ended:] if ended else self.line + text)[-REMEMBERED:]
        return told

    def _of_key(self, line: str) -> str:
        """Return a line that stands in or behind a private key."""
        words = line.split()
        last = words[-1] if words else ""
        self.left -= 1 if self.left else 0
        if not self.left or not words or words[0].endswith(":"):  # Proc-Type: and DEK-Info: stand in some keys
            return line
        if _OF_KEY.fullmatch(last) and (len(words) == 1 or len(last) >= 40):
            return line.replace(last, HIDDEN)
        self.left = 0
        return line


class _Masked:
    """A text stream that writes no credentials; everything else is as in the stream behind it."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._printed = Printed()
        self._bytes: _MaskedBytes | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._stream.write(self._printed.masked(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    @property
    def buffer(self) -> BinaryIO:
        """The bytes of this stream, which are masked as well."""
        self._bytes = self._bytes or _MaskedBytes(self)
        return cast(BinaryIO, self._bytes)

    def detach(self) -> BinaryIO:
        """Return the bytes of this stream, which stays as it is, as others have kept it."""
        return self.buffer

    def close(self) -> None:
        """Stay open, for those who print after one that has closed what is not his."""
        self.flush()

    def flush(self) -> None:
        self._stream.flush()


class _MaskedBytes(io.BufferedIOBase):
    """What is printed as bytes, such as by code that wraps sys.stdout.buffer in a stream of its own."""

    def __init__(self, text: _Masked):
        self._text = text
        self._decoder = codecs.getincrementaldecoder(text.encoding or "utf-8")("backslashreplace")

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._text.write(self._decoder.decode(bytes(data)))
        return memoryview(data).nbytes

    def flush(self) -> None:
        self._text.flush()

    def fileno(self) -> int:
        return int(self._text.fileno())

    def close(self) -> None:
        """Stay open, as the stream of text does; Python also calls this when the process ends."""
        with suppress(OSError, ValueError):
            self.flush()


def masking(stream: TextIO) -> TextIO:
    """Return a stream that writes to this one without credentials."""
    return stream if isinstance(stream, _Masked) else cast(TextIO, _Masked(stream))


def behind(stream: Any) -> Any:
    """Return the stream that a masked one writes to; any other one as it is."""
    return stream._stream if isinstance(stream, _Masked) else stream


def moved(stream: Any, other: TextIO) -> Any:
    """Let a masked stream write to another one, and return it; without a masked stream return the other one."""
    if not isinstance(stream, _Masked):
        return other
    stream._stream = other
    return stream


def mask_output() -> None:
    """Let whatever this process prints from Python be without credentials."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            continue
        own = stream is getattr(sys, f"__{name}__")
        setattr(sys, name, masking(stream))
        if own:
            setattr(sys, f"__{name}__", getattr(sys, name))
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _tell_of_thread


def _tell_of_thread(failed: threading.ExceptHookArgs) -> None:
    """Print what a thread raised as one text: Python prints it in pieces, in which no secret of two lines is found."""
    if failed.exc_type is SystemExit or sys.stderr is None:
        return
    told = "".join(traceback.format_exception(failed.exc_type, failed.exc_value, failed.exc_traceback))
    name = failed.thread.name if failed.thread else "that has ended"
    print(f"Exception in thread {name}:\n{told}", end="", file=sys.stderr, flush=True)
