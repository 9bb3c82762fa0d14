"""How numbers and long texts look on a page; the names are filters in the templates. None is a dash."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NOTHING = "–"
SHOWN = 600  # characters of a long text that are open to read
UNFOLDED = 4000  # and how many more are behind a click; the rest stays in the file it came from


def count(value: Any) -> str:
    """1234567 → 1,234,567."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if abs(value) >= 1000 or float(value).is_integer() else f"{value:,.1f}"


def number(value: Any, like: float | None = None) -> str:
    """Four digits that matter; `like` gives the magnitude that decides about decimals, for numbers in one row."""
    if value is None:
        return NOTHING
    size = abs(value if like is None else like)
    if size == 0:
        return f"{value:.4g}"
    if not 1e-4 <= size < 1e6:
        return f"{value:.3g}"
    return f"{value:,.{4 if size < 10 else 3 if size < 100 else 2 if size < 1000 else 1}f}"


def size(value: Any) -> str:
    """1536 → 1.5 KiB."""
    if value is None:
        return NOTHING
    rest = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if rest < 1024:
            return f"{rest:.0f} {unit}" if unit == "B" or rest >= 100 else f"{rest:.1f} {unit}"
        rest /= 1024
    return f"{rest:,.1f} TiB"


def duration(seconds: Any) -> str:
    """3725 → 1 h 2 min."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60:,} h {minutes % 60} min"


def percent(part: Any, whole: Any) -> str:
    """(1, 8) → 12.5 %; never rounds something to 0 % or to 100 %."""
    if part is None or not whole:
        return NOTHING
    if part in (0, whole):
        return "0 %" if part == 0 else "100 %"
    return f"{min(max(100 * part / whole, 0.1), 99.9):.1f} %"


def words(name: str | None) -> str:
    """must_beat_base → must beat base."""
    return (name or NOTHING).replace("_", " ")


@dataclass(frozen=True)
class Text:
    """A text from the outside, cut so that one row cannot fill the page."""

    start: str
    rest: str
    """What a click unfolds."""
    left_out: int
    """Characters that are on no page."""


def cut(text: str) -> Text:
    """Cut a long text."""
    end = SHOWN + UNFOLDED
    return Text(text[:SHOWN], text[SHOWN:end], max(len(text) - end, 0))
