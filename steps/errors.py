"""Error classes, their exit codes and the form of an error message.

Every process of this project that fails exits with the code of one of these classes. A message always has the same
parts: where, what was found, what was expected (and why, where that is not obvious), how to fix it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from steps.secrets import without_credentials

EXIT_BUG = 70
# What no file in UTF-8 can hold, what a terminal obeys, and what turns the letters around it.
UNREADABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
FOUND_LIMIT = 80  # characters; longer values are cut, so that the sentence around them stays readable


@dataclass(frozen=True)
class Problem:
    """One error, in terms of the user's files and parameters."""

    code: str
    """Stable code such as DATA-E0412, for searches and tests."""
    where: str
    """File and row, or parameter, as the user named it."""
    found: str
    expected: str
    fix: str
    """One action."""
    rows: tuple[int, ...] = field(default=())
    """The first rows with this problem, if there are several."""
    count: int = 1
    why: str = field(default="", kw_only=True)
    """The reason for what is expected, as it stands after "because"; empty where it needs none."""

    def __post_init__(self) -> None:
        # Errors are printed, stored and sent, and whatever they quote may hold a password, or what is no text.
        for name in ("where", "found", "expected", "fix", "why"):
            object.__setattr__(self, name, readable(without_credentials(getattr(self, name))))

    def __str__(self) -> str:
        more = ""
        if self.count > 1:
            shown = ", ".join(str(row) for row in self.rows)
            more = f" ({self.count:,} like this; first: {shown})" if shown else f" ({self.count:,} like this)"
        stop = "" if self.fix.endswith("?") else "."
        because = f", because {self.why}" if self.why else ""
        told = f"found {self.found}; expected {self.expected}{because}."
        return f"{self.code} {self.where}: {told} Fix: {self.fix}{stop}{more}"


class StepError(Exception):
    """An expected kind of failure; carries every problem that was found, not only the first."""

    exit_code = EXIT_BUG
    retryable = False
    transient = False
    """Whether the same step may succeed some seconds later, as it is."""
    report: dict[str, Any] | None = None
    """All that was looked at, where a command shows more than the problems."""

    def __init__(self, problems: Problem | Iterable[Problem], resume_from: str = ""):
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        self.resume_from = resume_from
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython shows for this error: what was found, and no stack."""
        return [f"{type(self).__name__}:", *str(self).splitlines(), *getattr(self, "__notes__", [])]

    def as_json(self, step: str) -> dict[str, Any]:
        """Return the machine-readable form: the last line of stderr and `error` in result.json."""
        first = self.problems[0]
        return {
            "code": self.exit_code,
            "class": type(self).__name__,
            "step": step,
            "where": first.where,
            "found": first.found,
            "expected": first.expected,
            "why": first.why,
            "fix": first.fix,
            "retryable": self.retryable,
            "resume_from": without_credentials(self.resume_from),
            "problems": [str(problem) for problem in self.problems],
        }


class UserError(StepError):
    """The user's data or settings are wrong; never retried."""

    exit_code = 2


class SecurityRefusal(StepError):
    """Input that could run untrusted code, or a path outside its folder; never retried."""

    exit_code = 3


class Outage(StepError):
    """A service or file is not available, even after our own retries.

    `transient` is false for what another try of the same step cannot change, such as a file that another step lost.
    """

    exit_code = 4
    retryable = True

    def __init__(self, problems: Problem | Iterable[Problem], resume_from: str = "", transient: bool = True):
        super().__init__(problems, resume_from)
        self.transient = transient


class OutOfResources(StepError):
    """Not enough memory or disk space; the same settings fail again."""

    exit_code = 5


class NumericError(StepError):
    """NaN, infinity or divergence."""

    exit_code = 6


class Preempted(StepError):
    """Stopped from outside with a complete checkpoint on disk; run again to resume."""

    exit_code = 143
    retryable = True


class Interrupted(Preempted):
    """Stopped by Ctrl-C; run again to go on."""

    exit_code = 130


def readable(text: str) -> str:
    """Return a text with escapes in place of halves of characters and of control characters but line ends and tabs."""
    return UNREADABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shown(value: object) -> str:
    """Format a found value for a message: its repr without credentials, control characters escaped, 80 characters."""
    try:
        text = without_credentials(repr(value))
    except (ValueError, RecursionError):  # a number of thousands of digits, or values that are nested too deep
        text = f"a value of type {type(value).__name__} that is too long to show"
    return text if len(text) <= FOUND_LIMIT else text[: FOUND_LIMIT - 1] + "…"


def some_of(names: Iterable[str], most: int = 10) -> str:
    """List the first names, and how many more there are; "none" without any."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more if every else "none"


def nearest(name: str, choices: Iterable[str]) -> str:
    """Suggest the choice that the user probably meant: 'did you mean …?', or an empty string."""
    import difflib

    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""
