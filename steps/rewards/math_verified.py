"""Comparison of two answers by Math-Verify. Runs in a worker process (`worker.py`), which ends it at its limits."""

from __future__ import annotations

import logging
import re
from typing import Any

from math_verify import parse, verify

logging.disable(logging.WARNING)  # Math-Verify warns that its own time limits, which need signals, are off

# In plain text these are names, in LaTeX products of letters.
_NAMES = re.compile(r"(?<![\\A-Za-z])(pi|theta|alpha|beta|gamma|lambda|infty|sin|cos|tan|log|ln)(?![A-Za-z])")


def judge(what: str, right: str, answer: str = "") -> bool:
    """Return whether the right answer can be read, or whether an answer equals it."""
    expected = _read(right)
    if what == "readable":
        return bool(expected)
    return bool(verify(expected, _read(answer), timeout_seconds=None))


def _read(text: str) -> list[Any]:
    """Read an answer: with LaTeX's marks of mathematics as it is, otherwise as if it were all mathematics."""
    if not any(mark in text for mark in ("$", "\\(", "\\[", "\\boxed")):
        bare = _NAMES.sub(r"\\\1", text.strip().rstrip("."))
        if found := list(parse(f"${bare}$", parsing_timeout=None)):
            return found
    return list(parse(text, parsing_timeout=None))
