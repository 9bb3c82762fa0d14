"""JSON inside rows: whole numbers of any size stay as written.

orjson reads a whole number of more than 64 bits as a float, and cannot write one: digits of a long id would be lost.
What is nested deeper than it writes is written by Python's own module.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import orjson

# 19 digits may be more than 64 bits; most texts have no such run, and orjson reads them.
LONG = re.compile(r"[0-9]{19}")
LONG_BYTES = re.compile(rb"[0-9]{19}")
MOST_DIGITS = 4300  # Python converts no longer ones
DIGITS = bytes(48 if 48 <= code <= 57 else 32 for code in range(256))


def from_json(text: str) -> Any:
    """Parse a JSON text. Raises orjson.JSONDecodeError, also for a whole number that is too long to convert."""
    return exact(text) if LONG.search(text) else orjson.loads(text)


def exact(text: str | bytes) -> Any:
    """Parse a JSON text and keep whole numbers of any size, which takes longer. Raises as `from_json`."""
    try:
        orjson.loads(text)  # the stricter of the two; it explains errors in the same words as elsewhere
    except orjson.JSONDecodeError as error:
        if "infinity" not in error.msg:  # orjson says so of a number with more than 308 digits
            raise
    return json.loads(text, parse_int=_whole, parse_float=_finite)


def has_long_number(block: bytes) -> bool:
    """Return whether a large text may have a number of more than 64 bits; fast, and rarely True without one."""
    return b"0" * 19 in block.translate(DIGITS)


def as_json(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """Write a value as JSON. Raises TypeError for a value that JSON cannot hold, if `default` does not convert it."""
    return as_bytes(value, default).decode()


def as_bytes(value: Any, default: Callable[[Any], Any] | None = None) -> bytes:
    """Write a value as JSON in UTF-8; raises as `as_json`."""
    try:
        return orjson.dumps(value, default=default)
    except orjson.JSONEncodeError as error:
        if "64-bit" not in str(error) and "Recursion limit" not in str(error):  # orjson writes 254 levels, reads 1,024
            raise
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=default).encode()


def _finite(number: str) -> float:
    if math.isinf(value := float(number)):
        raise orjson.JSONDecodeError("number is infinity when parsed as double", number, 0)
    return value


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise orjson.JSONDecodeError(f"a whole number of {len(digits)} digits", digits, 0)
    return int(digits)
