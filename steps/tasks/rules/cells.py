"""Read single values of a row: texts, whole numbers, and lists that a csv cell holds as JSON text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

from steps.params.group import Group
from steps.tasks import Fault, as_found, kind_of, missing_columns, named_by
from steps.tasks.rules.characters import is_blank
from steps.tasks.rules.json_text import from_json

Reader = Callable[[Any], Any]

EXACT = 2**53  # from here on, a float cannot represent every whole number
WHOLE = re.compile(r"-?[0-9]{1,18}(?:\.0*)?")  # 18 digits fit into an int64


def text_faults(row: dict[str, Any], names: Sequence[str], columns: Group) -> Iterator[Fault]:
    """Yield the errors in text columns: missing column, another type, empty text."""
    for name in names:
        value = row.get(name)
        if type(value) is not str:
            if name not in row:
                yield from missing_columns(row, named_by(columns, [name]))
            else:
                yield Fault("DATA-E0602", name, as_found(value), f"text, not {kind_of(value)}",
                            "put the value in quotes, or remove the row")  # fmt: skip
        elif is_blank(value):
            yield Fault("DATA-E0603", name, as_found(value), "text that is not empty",
                        "fill it in, or remove the row")  # fmt: skip


def whole_number(value: Any) -> int | None:
    """Read a whole number written as 7, 7.0, decimal 7.00 or "7"; None for any other value.

    None also for True, for "1,000" (1000 or 1.0), for a float of 2**53 or more, which is not exact, and for more than
    64 bits.
    """
    kind = type(value)
    if kind is int:
        return value if -(2**63) <= value < 2**64 else None
    if kind is float:
        return int(value) if value.is_integer() and abs(value) < EXACT else None
    if kind is Decimal:
        return int(value) if value.is_finite() and value == value.to_integral_value() else None
    if kind is str and WHOLE.fullmatch(value):
        return int(value.partition(".")[0])
    return None


def from_cell(value: Any) -> Any:
    """Parse a list or object that a csv cell holds as JSON text; return any other value unchanged.

    Raises orjson.JSONDecodeError (a ValueError) when a text that starts with [ or { is not JSON.
    """
    return from_json(value) if type(value) is str and value[:1] in ("[", "{") else value


def read_cell(value: Any) -> Any:
    """Parse as `from_cell`, but return a text that is not JSON unchanged."""
    try:
        return from_cell(value)
    except ValueError:
        return value


def broken_cell(column: str, value: str, error: ValueError, expected: str) -> Fault:
    """Return the fault of a cell that could not be parsed."""
    python = value[:2] in ("['", "{'") or "'" in value[:20]
    words = str(error).partition(":")[0]
    return Fault("DATA-E1011", column, as_found(value), f"{expected} as JSON ({words})",
                 "this is Python: write the cell with json.dumps" if python else
                 "write the cell with json.dumps, or correct it")  # fmt: skip
