"""Formats of numbers and long texts; the function names are filters in the templates. None is a dash."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

NOTHING = "–"
NAME_LINE = 15  # characters of a name in one line
NAME_LINES = 3
SHOWN = 600  # characters of a long text that are visible
UNFOLDED = 4000  # further characters that a click shows; the rest is only in the original file


def count(value: Any) -> str:
    """Format a count: 1234567 → 1,234,567."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if abs(value) >= 1000 or float(value).is_integer() else f"{value:,.1f}"


def number(value: Any, like: float | None = None) -> str:
    """Format with four significant digits; `like` sets the number of decimals, for numbers in one row."""
    if value is None:
        return NOTHING
    size = abs(value if like is None else like)
    if size == 0:
        return f"{value:.4g}"
    if not 1e-4 <= size < 1e6:
        return f"{value:.3g}"
    return f"{value:,.{4 if size < 10 else 3 if size < 100 else 2 if size < 1000 else 1}f}"


def size(value: Any) -> str:
    """Format a size in bytes: 1536 → 1.5 KiB."""
    if value is None:
        return NOTHING
    rest = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if rest < 1024:
            return f"{rest:.0f} {unit}" if unit == "B" or rest >= 100 else f"{rest:.1f} {unit}"
        rest /= 1024
    return f"{rest:,.1f} TiB"


def duration(seconds: Any) -> str:
    """Format a duration in seconds: 3725 → 1 h 2 min."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60:,} h {minutes % 60} min"


def percent(part: Any, whole: Any) -> str:
    """Format a share: (1, 8) → 12.5 %; only exact values give 0 % or 100 %."""
    if part is None or not whole:
        return NOTHING
    if part in (0, whole):
        return "0 %" if part == 0 else "100 %"
    return f"{min(max(100 * part / whole, 0.1), 99.9):.1f} %"


def parameter(value: Any) -> str:
    """Format the value of a parameter: 3.2178e-05 → 3.218e-05, True → true; the digits of a count are not grouped."""
    if value is None:
        return NOTHING
    if isinstance(value, float):
        short = f"{value:.10g}"
        return short if len(short) <= 7 else f"{value:.3e}" if abs(value) < 1e-3 else f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def words(name: str | None) -> str:
    """Replace underscores by spaces: must_beat_base → must beat base."""
    return (name or NOTHING).replace("_", " ")


def name_lines(name: str) -> list[str]:
    """Break a name behind its underscores and spaces into at most NAME_LINES lines."""
    lines = [""]
    for word in name.replace("_", "_ ").split(" "):
        gap = " " if lines[-1] and not lines[-1].endswith("_") else ""
        if lines[-1] and len(lines[-1] + gap + word) > NAME_LINE:
            lines.append(word)
        else:
            lines[-1] += gap + word
    shown = [line if len(line) <= NAME_LINE + 3 else line[: NAME_LINE + 2] + "…" for line in lines]
    return shown if len(shown) <= NAME_LINES else [*shown[: NAME_LINES - 1], shown[NAME_LINES - 1].rstrip("…") + "…"]


@dataclass(frozen=True)
class Text:
    """A text from the data, truncated so that one row cannot fill the page."""

    start: str
    rest: str
    """The part that a click shows."""
    left_out: int
    """Number of characters that are not on the page."""


def cut(text: str) -> Text:
    """Truncate a long text."""
    end = SHOWN + UNFOLDED
    return Text(text[:SHOWN], text[SHOWN:end], max(len(text) - end, 0))
