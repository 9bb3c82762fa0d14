"""Values of Python and numpy as JSON has them, and whether two values are the same."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Set
from typing import Any


def plain(value: Any) -> Any:
    """Return a value as JSON has it: numbers and arrays of numpy, sets, ranges, generators and paths become plain.

    Anything else becomes the text that it prints, as a date in a file of YAML does.
    """
    if value is None or type(value) in (str, bool, int, float):
        return value
    if hasattr(value, "tolist"):  # numbers and arrays of numpy, torch and pandas
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Set):
        return sorted(map(plain, value), key=str)
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [plain(one) for one in value]
    return str(value)


def key_of(value: Any) -> str:
    """Return a text that is the same for equal values: 1 and 1.0 are equal, 1 and true are not."""
    return json.dumps(_whole(value), sort_keys=True, ensure_ascii=False, default=repr)


def _whole(value: Any) -> Any:
    if isinstance(value, list):
        return [_whole(one) for one in value]
    if isinstance(value, dict):
        return {name: _whole(one) for name, one in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def is_finite(value: Any) -> bool:
    """Return whether a value has neither NaN nor infinity in it, at any depth."""
    if isinstance(value, list | dict):
        return all(is_finite(one) for one in (value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def number_in(value: Any) -> int | float | None:
    """Return a finite number, also from text such as 1e-5; None for everything else, also for true and false."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    return value if isinstance(value, int) else int(number) if number.is_integer() else number
