"""Undo what Arrow does to nested JSON: fields that a row does not have are null. Long numbers that are floats are told.

    {"x": {"type": "string"}} and {"y": {"type": "string"}} in one column
    → {"x": {"type": "string"}, "y": null} and {"x": null, "y": {"type": "string"}}

A column of structs has the fields of all its rows, so a null there is no value that somebody wrote. Fields of messages
and of flat structs are kept: their null says that the text is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from steps.prepare_data.findings import Findings

DROPPED = "DATA-F0509"
MESSAGE_FIELDS = frozenset(("role", "from", "speaker"))
LARGEST_EXACT = 2**63  # a float of this size was a number of more than 64 bits, whose last digits are lost


def cleaner(name: str, kind: pa.DataType, findings: Findings) -> Callable[[Any, int], Any] | None:
    """Return the function that cleans the values of a column, given with their record; None for flat columns."""
    if not (_is_list(kind) or pa.types.is_struct(kind)):
        return None
    walk = _Walk(kind)

    def clean(value: Any, record: int) -> Any:
        walk.dropped = walk.rounded = 0
        value = walk.clean(value, kind, inside=False)
        if walk.dropped:
            findings.repair(DROPPED, f"fields that a row does not have, null in the column {name}, dropped")
        if walk.rounded:
            findings.warn("DATA-W0511", f"numbers of more than 64 bits that the column {name} holds as floats: their "
                          "last digits are lost", record)  # fmt: skip
        return value

    return clean if walk.has_work else None


class _Walk:
    """Cleans nested values and counts what was changed."""

    def __init__(self, kind: pa.DataType):
        self.dropped = self.rounded = 0
        self.has_work = _needs_cleaning(kind)

    def clean(self, value: Any, kind: pa.DataType, inside: bool, in_column: bool = False) -> Any:
        """Return a value without unset fields; `inside` a list or message, `in_column`: an element of the column."""
        if value is None:
            return None
        if _is_list(kind):
            inner = kind.value_type
            if not (_is_nested(inner) or pa.types.is_floating(inner)):
                return value
            return [self.clean(item, inner, inside=True, in_column=not inside) for item in value]
        if pa.types.is_struct(kind):
            return self._clean_struct(value, kind, inside, in_column)
        if type(value) is float and abs(value) >= LARGEST_EXACT:
            self.rounded += 1
        return value

    def _clean_struct(self, value: dict[str, Any], kind: pa.DataType, inside: bool, in_column: bool) -> dict[str, Any]:
        message = not MESSAGE_FIELDS.isdisjoint(value)
        keeps = message or not inside or (in_column and not any(_is_nested(field.type) for field in kind))
        made = {}
        for field in kind:
            inner = value[field.name]
            if inner is None and not keeps:
                self.dropped += 1
            else:
                made[field.name] = self.clean(inner, field.type, inside or message)
        return made


def _needs_cleaning(kind: pa.DataType) -> bool:
    if _is_list(kind):
        return _needs_cleaning(kind.value_type) or pa.types.is_struct(kind.value_type)
    if pa.types.is_struct(kind):
        return any(_is_nested(field.type) or pa.types.is_floating(field.type) for field in kind)
    return pa.types.is_floating(kind)


def _is_nested(kind: pa.DataType) -> bool:
    return _is_list(kind) or pa.types.is_struct(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
