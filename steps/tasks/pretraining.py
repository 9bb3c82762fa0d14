"""Plain texts for continued pretraining on a language or a domain.

{"text": "Once upon a time …"}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from steps.params.task_columns import PretrainingColumns
from steps.tasks import Fault
from steps.tasks.cells import text_faults

Columns = PretrainingColumns
HEAD = "causal_lm"

SCHEMA = pa.schema([pa.field("text", pa.string(), nullable=False)])


def columns_of(columns: PretrainingColumns) -> tuple[str, ...]:
    """Return the required column."""
    return (columns.text_key,)


def check_row(row: dict[str, Any], columns: PretrainingColumns) -> Iterator[Fault]:
    """Yield the errors in one row: a missing column, another type, empty text."""
    return text_faults(row, (columns.text_key,), columns)


def remarks(row: dict[str, Any], columns: PretrainingColumns) -> Iterator[tuple[str, str]]:
    """Yield nothing: there are no remarks on a valid text."""
    return iter(())


def canonical(row: dict[str, Any], columns: PretrainingColumns) -> dict[str, Any]:
    """Keep the text: {"body": "Once …", "id": 7} → {"text": "Once …"} with text_key="body"."""
    return {"text": row[columns.text_key]}


def training_row(row: dict[str, Any], columns: PretrainingColumns) -> dict[str, Any]:
    """Return the text in the column that TRL expects."""
    return {"text": row["text"]}


def question(row: dict[str, Any], columns: PretrainingColumns) -> None:
    """Return None: the whole text is a training target."""
    return
