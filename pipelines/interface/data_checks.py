"""check_data: every row of data files, without a model."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.client.display import columns, table
from pipelines.interface.failed import RunStopped, python_words
from pipelines.interface.given import text_of
from pipelines.interface.process import Stopped, do
from pipelines.values import plain
from steps.errors import Problem, StepError, UserError

if TYPE_CHECKING:
    from pandas import DataFrame

Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
OF_DATA = "DATA-"  # begins the codes of what is wrong in rows; other problems are those of the call
HEADS = ("code", "where", "found", "expected", "fix", "rows")


@dataclass(frozen=True, repr=False)
class DataCheck:
    """What a check of data files found; it is true if every row is valid."""

    counts: dict[str, int]
    """Rows of each split; empty if the data was refused."""
    sources: dict[str, int]
    """Training rows of each data set of `training_data`, where that is given."""
    notes: list[str]
    """What was repaired, read in another form, or is worth a look."""
    problems: list[Problem]
    """What is wrong, each kind of error once, with its first rows."""

    @property
    def valid(self) -> bool:
        """Whether every row is valid."""
        return not self.problems

    def __bool__(self) -> bool:
        return self.valid

    def table(self) -> DataFrame:
        """Return the problems: a row for each kind of error."""
        from pandas import DataFrame

        return DataFrame(self._cells(), columns=list(HEADS))

    def _cells(self) -> list[tuple[Any, ...]]:
        return [(one.code, one.where, one.found, one.expected, one.fix, one.count) for one in self.problems]

    def _counted(self) -> list[tuple[str, str]]:
        counts = [*self.counts.items(), *((f"train: {name}", count) for name, count in self.sources.items())]
        return [(name, f"{count:,}") for name, count in counts]

    def __repr__(self) -> str:
        told = [columns(("split", "rows"), self._counted())] if self.counts else []
        ending = [str(one) for one in self.problems] or ["all rows are valid"]
        return "\n".join([*told, *self.notes, *ending])

    def _repr_html_(self) -> str:
        parts = [table(("split", "rows"), self._counted())] if self.counts else []
        parts += [table(("note",), [(note,) for note in self.notes])] if self.notes else []
        parts.append(table(HEADS, self._cells()) if self.problems else "<p>all rows are valid</p>")
        return "\n".join(parts)


@python_words()
def check_data(task: str, train: Files = "", validation: Files = "", test: Files = "", **options: Any) -> DataCheck:
    """Check every row of data files for a task such as "chat_completion", without a model.

    Files are paths, folders, patterns or URIs, or lists of them; `options` are the task's columns and the parameters of
    data by name, such as `sentence1_key="review"`. Rows that are wrong are in `problems` of what is returned; only
    wrong arguments and files that cannot be read raise an error (UserError, SecurityRefusal, Outage).
    """
    files = {"train": train, "validation": validation, "test": test}
    values = {name: _paths(name, value) for name, value in files.items()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        try:
            do("check-data", folder, lambda line: None, task=text_of("task", task), options=plain(options), **values)
        except Stopped:
            raise RunStopped("the check was stopped") from None
        except StepError as error:
            if all(problem.code.startswith(OF_DATA) for problem in error.problems) and _was_read(folder):
                return DataCheck({}, {}, list(getattr(error, "__notes__", [])), error.problems)
            raise
        found = json.loads((folder / "findings.json").read_text("utf-8"))
    notes = [f"WARNING {_note(one)}" for one in found["warnings"]] + [_note(one) for one in found["repairs"]]
    return DataCheck(found["rows"], found["sources"], notes, [])


def _paths(name: str, files: Any) -> str:
    """Return files as the parameter has them, one on each line. Raises UserError for what is no path."""
    listed = list(files) if isinstance(files, list | tuple) else [] if files is None else [files]
    if not all(isinstance(file, str | os.PathLike) for file in listed):
        raise UserError(
            Problem("PARAM-E0114", name, f"a {type(files).__name__}", "a path, or a list of paths",
                    "write the rows to a jsonl, json, csv, tsv or parquet file")
        )  # fmt: skip
    return "\n".join(os.fspath(file) for file in listed)


def _note(found: dict[str, Any]) -> str:
    return f"{found['what']} ({found['count']:,})"


def _was_read(folder: Path) -> bool:
    """Return whether the files were reached: only then there are findings."""
    return (folder / "findings.json").is_file()
