"""Reward of a text in which a regular expression is found.

The package regex stops a search at its time limit, which a pattern such as (a+)+b reaches at any length of text; a text
on which the time runs out earns 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import regex
from pydantic import Field

from steps.errors import Problem, shown
from steps.params.group import Group
from steps.rewards.library import Function, Judged, by_row

LONGEST = 100_000  # characters that are searched, from the start


class Options(Group):
    """The pattern and how it must match."""

    pattern: str = ""
    """Regular expression (syntax of Python's re); empty if every row has its own in `column`."""

    column: str = ""
    """Column with the pattern of each row, if `pattern` is empty."""

    full_match: bool = False
    """The whole text must match, without white space around it; otherwise any part of it."""

    ignore_case: bool = False
    """Match without upper and lower case."""

    timeout_seconds: float = Field(1.0, gt=0, le=60)
    """Computing time of one search."""

    def conflicts(self) -> Iterator[Problem]:
        """Yield the problems of a missing or wrong pattern."""
        if bool(self.pattern) == bool(self.column):
            yield Problem("REWARD-E0221", "pattern", "both" if self.pattern else "neither pattern nor column",
                          "a pattern, or a column of patterns", "set one of them")  # fmt: skip
        elif self.pattern and (wrong := _wrong(self.pattern)):
            yield Problem("REWARD-E0213", "pattern", shown(self.pattern), f"a regular expression ({wrong})",
                          "correct it")  # fmt: skip


def columns(options: Options) -> tuple[str, ...]:
    """Return the column of patterns, if each row has its own."""
    return (options.column,) if options.column else ()


def reward(options: Options) -> Function:
    """Return the reward: 1 for a match, else 0; None for a row whose own pattern is missing or wrong."""

    def judge(text: str, pattern: Any = options.pattern) -> Judged:
        if not isinstance(pattern, str) or not pattern or _wrong(pattern):
            return Judged(None)
        compiled = _compiled(pattern, regex.IGNORECASE if options.ignore_case else 0)
        text = text[:LONGEST]
        search = compiled.fullmatch if options.full_match else compiled.search
        try:
            match = search(text.strip() if options.full_match else text, timeout=options.timeout_seconds)
        except (TimeoutError, MemoryError):
            return Judged(0.0, "time limit")
        return Judged(float(match is not None), match[0] if match else "")

    return by_row(judge, columns(options))


@lru_cache(maxsize=1000)
def _compiled(pattern: str, flags: int) -> Any:
    return regex.compile(pattern, flags)


@lru_cache(maxsize=1000)
def _wrong(pattern: str) -> str:
    try:
        regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError, MemoryError, ValueError) as error:
        return str(error) or type(error).__name__
    return ""
