"""The lines of a local run that are worth keeping: what the steps and their libraries print."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any, TextIO

COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
STREAMED = re.compile(r"[\d:.]+ - INFO - Streamed logs:")
OUTPUTS = re.compile(r"[\d:.]+ - INFO - Task '.*' outputs:")
BAR = re.compile(r"\d+%\|.*\| [\d.]+\w?/[\d.]+\w? \[")
RUNNER = re.compile(r"[\d:.]+ - [A-Z]+ - |-{20,}$")
INDENT = "    "


def open_log(file: Path) -> TextIO:
    """Open a log file for more lines; those for which its disk has no space are left out.

    A run of which no more than the log is lost goes on, and another one ends with the message of a step.
    """
    return io.TextIOWrapper(io.BufferedWriter(_Log(file, "a")), encoding="utf-8", errors="replace")


class _Log(io.FileIO):
    """A file that takes what fits."""

    def write(self, data: Any) -> int:
        with contextlib.suppress(OSError):
            return super().write(data)
        return len(memoryview(data))


class Readable:
    """Takes kfp's output line by line, and leaves out colours, progress bars, and the outputs that kfp prints."""

    def __init__(self) -> None:
        self._skips_outputs = False
        self._blank = True

    def line(self, raw: str) -> str | None:
        """Return a line as it is kept; None to leave it out."""
        text = self._kept(raw)
        if text is None or (self._blank and not text):
            return None
        self._blank = not text
        return text

    def _kept(self, raw: str) -> str | None:
        text = COLOUR.sub("", raw).rstrip().rsplit("\r", 1)[-1]
        if RUNNER.match(text):
            self._skips_outputs = bool(OUTPUTS.match(text))
            return None if self._skips_outputs or STREAMED.match(text) else text
        unfinished = BAR.search(text) and "100%|" not in text
        return None if self._skips_outputs or unfinished else text.removeprefix(INDENT)
