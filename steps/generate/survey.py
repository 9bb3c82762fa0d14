"""One look at all rows before the first answer: what no template can write, and which columns the user has.

A row that cannot be asked would otherwise end the run hours later, and a correction of it makes another data set, whose
answers begin anew.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from typing import Any

from steps.errors import Problem, UserError
from steps.generate.asking import Asking
from steps.generate.columns import JSON_TEXT, TYPES, kind_of, merged_kind
from steps.generate.journal import SURVEY, Journal
from steps.generate.rows import InputRow, InputRows
from steps.tasks.rules.json_text import from_json

log = logging.getLogger("finetune")

MOST_COLUMNS = 500  # with more, what is given as `more` stays one column
MOST_PROBLEMS = 5  # refused rows that are told one by one


@dataclass
class Survey:
    """What the rows have."""

    texts: int = 0
    conversations: int = 0
    tools: int = 0
    references: int = 0
    columns: dict[str, str] = field(default_factory=dict)
    """The user's other columns: name → kind of value (`columns.py`), in the order of their first value."""
    whole: bool = False
    """Whether there are too many of them: they stay together as JSON, in the column `more`."""

    def see(self, row: InputRow) -> None:
        """Count a row and note its columns."""
        self.texts += row.messages is None
        self.conversations += row.messages is not None
        self.tools += row.tools is not None
        self.references += row.reference is not None
        if row.more and not self.whole:
            values: dict[str, Any] = from_json(row.more)
            for name, value in values.items():
                self.columns[name] = merged_kind(self.columns.get(name), kind_of(value))
            if len(self.columns) > MOST_COLUMNS:
                self.whole, self.columns = True, {}


def survey(rows: InputRows, asking: Asking, journal: Journal) -> Survey:
    """Look at all rows, once for all runs of a journal.

    Raises UserError with the rows that the chat template refuses, the first ones and their number.
    """
    if (kept := _kept(journal)) is not None:
        return kept
    seen, refused, count = Survey(), list[Problem](), 0
    for row in rows.between(0, rows.count):
        seen.see(row)
        if row.messages is not None:
            try:
                asking.prompt(row)
            except UserError as error:
                count += 1
                refused += error.problems[: MOST_PROBLEMS - len(refused)]
    if refused:
        if count > len(refused):
            log.info("the chat template refuses %s of %s rows", f"{count:,}", f"{rows.count:,}")
        raise UserError(refused)
    if seen.whole:
        log.warning("WARNING the rows have more than %d other columns: they stay in the column more", MOST_COLUMNS)
    seen.columns = {name: kind or JSON_TEXT for name, kind in seen.columns.items()}
    journal.keep(SURVEY, asdict(seen))
    return seen


def _kept(journal: Journal) -> Survey | None:
    """Return what an earlier run has seen; None if there is nothing, or something else."""
    told = journal.kept(SURVEY)
    if not isinstance(told, dict):
        return None
    plain = {name: type(value) for name, value in asdict(Survey()).items()}
    if {name: type(value) for name, value in told.items()} != plain:
        return None
    return Survey(**told) if set(told["columns"].values()) <= TYPES.keys() else None
