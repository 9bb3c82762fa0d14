"""What a kind of data means: its columns, when a row is good, its canonical form, what is asked and what is right.

One module per task, all with the same names (they share a shape, not a parent class):

    Columns                       the column parameters (a Group from steps/params/data.py)
    columns_of(columns)           required column names in the user's file
    SCHEMA                        pyarrow schema of the canonical rows
    check_row(row, columns)       yields a Fault for everything wrong with one raw row
    canonical(row, columns)       raw row → canonical row; only called on rows without a Fault
    training_row(row, columns)    canonical row → what TRL calls it: {messages}, {prompt, completion} or {text}
    question(row, columns)        canonical row → (prompt, reference answer) for generation, or None

To add a task: a module, a row in TASKS, its columns in steps/params/data.py, and a test.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

TASKS = {
    "chat_completion": "steps.tasks.chat_completion",
    "text_generation": "steps.tasks.text_generation",
}


@dataclass(frozen=True)
class Fault:
    """Something wrong in one row; prepare_data adds file, record and line."""

    code: str
    """Such as DATA-E0412."""
    column: str
    """Path inside the row, such as messages[1].role."""
    found: str
    expected: str
    fix: str


def load_task(name: str) -> ModuleType:
    """Import a task's module."""
    return importlib.import_module(TASKS[name])
