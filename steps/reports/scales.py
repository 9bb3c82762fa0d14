"""Positions of values on an axis, from 0 to 1, and the ticks: numbers, numbers on a log scale, or categories."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from steps.reports.charts import WIDE, rate, short, tickers

MISSING = -0.2  # position of a value that a trial does not have
LISTED_ON_LOG = 10  # listed numbers whose largest is this many times the smallest are spread evenly by a log scale
CLOSE = 0.07  # a tick nearer to another one has no label


@dataclass(frozen=True)
class Scale:
    """One axis; `position` returns MISSING for no value."""

    position: Callable[[Any], float]
    log: bool = False
    categories: bool = False
    ticks: list[tuple[float, str]] = field(default_factory=list)
    """(position, label), in ascending order, with room between them."""


def parameter_scale(entry: Any, values: list[Any]) -> Scale:
    """Return the axis of a parameter; `entry` is its part of the space, if it has one."""
    found = [value for value in values if value is not None]
    lacks = len(found) < len(values)
    entry = entry.get("choices", entry) if isinstance(entry, dict) else entry  # the two ways to write a list
    listed = entry if isinstance(entry, list) else []
    everything = [*(value for value in listed if value is not None), *found]
    if not everything or not all(_is_number(value) for value in everything):
        return _categories(everything, lacks)
    numbers = [float(value) for value in everything]
    if isinstance(entry, dict):
        numbers += [float(entry[end]) for end in ("low", "high") if _is_number(entry.get(end))]
        return _numbers(numbers, bool(entry.get("log")) and min(numbers) > 0, None, lacks, _whole(everything))
    log = min(numbers) > 0 and max(numbers) >= LISTED_ON_LOG * min(numbers)
    return _numbers(numbers, log, sorted(set(numbers)), lacks, _whole(everything))


def measured_scale(numbers: list[float]) -> Scale:
    """Return the axis of a metric; one that varies by more than a factor of WIDE has a log scale."""
    if not numbers:
        return Scale(lambda value: MISSING)
    return _numbers(numbers, min(numbers) > 0 and max(numbers) > WIDE * min(numbers), None, False, False)


def _numbers(numbers: list[float], log: bool, listed: list[float] | None, lacks: bool, whole: bool) -> Scale:
    low, high = min(numbers), max(numbers)
    convert: Callable[[float], float] = math.log10 if log else float
    start, length = convert(low), convert(high) - convert(low)

    def position(value: Any) -> float:
        if not _is_number(value):
            return MISSING
        return (convert(float(value)) - start) / length if length else 0.5

    at = listed or (_log_ticks(low, high) if log else _ticks(low, high, whole))
    ticks = [(position(value), tick_label(value)) for value in at]
    return Scale(position, log, ticks=_apart(ticks, lacks))


def _categories(values: list[Any], lacks: bool) -> Scale:
    names = list(dict.fromkeys(_as_text(value) for value in values))
    if set(names) <= {"false", "true"}:
        names = ["false", "true"]
    last = len(names) - 1

    def position(value: Any) -> float:
        return MISSING if value is None else names.index(_as_text(value)) / last if last else 0.5

    ticks = [(place / last if last else 0.5, short(name) or "empty") for place, name in enumerate(names)]
    return Scale(position, categories=True, ticks=_apart(ticks, lacks))


def tick_label(value: float) -> str:
    """Format a number for an axis: 0.00002 → 2e-5, 4096 → 4096."""
    return rate(value) if value and not 1e-3 <= abs(value) < 1e6 else f"{value:.6g}"


def _ticks(low: float, high: float, whole: bool) -> list[float]:
    if low == high:
        return [low]
    places = tickers().MaxNLocator(5, integer=whole, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    slack = (high - low) * 1e-9
    return [float(place) for place in places if low - slack <= place <= high + slack]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
        found = [factor * 10.0**power for power in powers for factor in factors]
        found = [value for value in found if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if len(found) >= 3:
            return found
    return sorted({low, high})


def _apart(ticks: list[tuple[float, str]], lacks: bool) -> list[tuple[float, str]]:
    """Leave out ticks that would overlap; the first and the last stay. `lacks` adds the tick of no value."""
    kept = ticks[:1]
    for place, label in ticks[1:-1]:
        if place - kept[-1][0] >= CLOSE and ticks[-1][0] - place >= CLOSE:
            kept.append((place, label))
    if len(ticks) > 1:
        kept.append(ticks[-1])
    return [(MISSING, "not set"), *kept] if lacks else kept


def _whole(values: list[Any]) -> bool:
    return all(isinstance(value, int) for value in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
