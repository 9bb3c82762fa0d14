"""What a kind of data means: its columns, when a row is good, its canonical form, what is asked and what is right.

One module per task, all with the same names (they share a shape, not a parent class):

    Columns                       the column parameters (a Group from steps/params/)
    HEAD                          what the model usually puts out, one of HEADS; how rows are written, which trainer and
                                  which evaluator work on them, and what is served follow from it (steps/plan/heads.py)
    columns_of(columns)           required column names in the user's file
    other_columns(columns)        the columns besides or in place of those (OtherColumns); may be left out
    SCHEMA                        pyarrow schema of the canonical rows
    check_row(row, columns)       yields a Fault for everything wrong with one raw row
    remarks(row, columns)         yields what is worth telling about a good raw row, as (code, sentence): DATA-W… warns,
                                  DATA-F… says what canonical() mends without loss
    canonical(row, columns)       raw row → canonical row; only called on rows without a Fault
    training_row(row, columns)    canonical row → what TRL calls it: {messages}, {prompt, completion}, {text}, …
    question(row, columns)        canonical row → (prompt, reference answer) for generation, or None

and, where rows only mean something together:

    counted(row, columns)         canonical row → the keys that are counted over the file (labels, tags, …)
    STRATIFY                      canonical column (a list) whose values are shared evenly among drawn splits
    judge(tallies, columns)       {split: Tally} of the given files → yields a Judgement (steps/tasks/counting.py)

and, where the answer is one of a list:

    STRATIFY                      canonical column whose values a shuffled split spreads evenly (one label per row)
    label_names(table, columns)   canonical rows → the class list; a label's place in it is its number

and, where the model is told what to do with a text:

    prompt_form(columns)          what stands before and after the text in a prompt; the registered model puts it there

A canonical row holds the texts that later steps need: `training_row` and `question` take only the form of a prompt
from the columns they are handed, so a reader of rows/<split>.parquet needs no column names.

Codes of the tasks: 04 conversations, 06 columns and texts, 10 labels, 11 tags, 12 answers, 13 summaries,
14 translations, 15 preferences and rewards. What several tasks ask is in cells.py (one value), labels.py (all labels
together), messages.py, tool_calls.py and answers.py.

To add a task: a module, a row in TASKS, its columns in steps/params/task_columns.py or chat_columns.py, and a test.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, get_args

from steps.errors import FOUND_LIMIT, nearest
from steps.params.secrets import without_secrets
from steps.params.settings import Head

TASKS = {
    "chat_completion": "steps.tasks.chat_completion",
    "pretraining": "steps.tasks.pretraining",
    "question_answering": "steps.tasks.question_answering",
    "summarization": "steps.tasks.summarization",
    "text_classification": "steps.tasks.text_classification",
    "text_generation": "steps.tasks.text_generation",
    "preference": "steps.tasks.preference",
    "kto": "steps.tasks.kto",
    "grpo": "steps.tasks.grpo",
    "verl": "steps.tasks.verl",
    "token_classification": "steps.tasks.token_classification",
    "translation": "steps.tasks.translation",
}

HEADS: tuple[Head, ...] = get_args(Head)

# Columns that hold what another parameter looks for in vain: parameter → the column, and what to set then.
OTHER_SHAPES = {
    "source_lang": ("translation", "set translation_key=translation"),
    "target_lang": ("translation", "set translation_key=translation"),
    "answers_key": ("answer_start", "set answers_key to nothing if each row has one answer in columns of its own"),
    "completion_key": ("chosen", "set kto_rows=pairs if these are pairs"),
    "label_key": ("chosen", "set kto_rows=pairs if these are pairs"),
    "chosen_key": ("completion", "set method=kto if these are rated answers"),
    "rejected_key": ("completion", "set method=kto if these are rated answers"),
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


@dataclass(frozen=True)
class OtherColumns:
    """Columns that a file may have besides the required ones, or in their place."""

    optional: Collection[str] | None = ()
    """Used where they are; None means every column."""
    instead: Mapping[str, str] = field(default_factory=dict)
    """Required column → the one that takes its place where it is absent."""

    def in_place(self, wanted: Mapping[str, str], present: Collection[str]) -> dict[str, str]:
        """Give `wanted` (parameter → required column) with the names that a file uses."""
        return {
            parameter: self.instead[name] if name not in present and self.instead.get(name) in present else name
            for parameter, name in wanted.items()
        }

    def used(self, wanted: Mapping[str, str], present: Iterable[str]) -> list[str]:
        """Give the columns of a file that are read, in the file's order, each once."""
        return [
            name
            for name in dict.fromkeys(present)
            if self.optional is None or name in self.optional or name in wanted.values()
        ]

    def known(self, required: Iterable[str]) -> set[str] | None:
        """Give every column name with a meaning; None when all have one."""
        return None if self.optional is None else {*required, *self.instead.values(), *self.optional}


NO_OTHERS = OtherColumns()


def load_task(name: str) -> ModuleType:
    """Import a task's module."""
    return importlib.import_module(TASKS[name])


def as_found(value: object) -> str:
    """Render a value from a data file the way it stands there: JSON, control characters visible, secrets cut.

    `steps.errors.shown` speaks Python; whoever opens a jsonl file looks for "bot" and null, not for 'bot' and None.
    """
    text = json.dumps(value, ensure_ascii=False, default=lambda other: f"{type(other).__name__} {other}")
    text = without_secrets(text[: 8 * FOUND_LIMIT])  # a row may hold a book
    text = visible(text)
    return text if len(text) <= FOUND_LIMIT else text[: FOUND_LIMIT - 1] + "…"


def visible(text: str) -> str:
    """Write control characters as escapes: a message is one line, and a terminal obeys none of it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def kind_of(value: object) -> str:
    """Name a value's type in JSON's words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true/false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def missing_columns(present: Iterable[str], wanted: Mapping[str, str]) -> Iterator[Fault]:
    """Yield a Fault for every column that is not there; `wanted` maps the parameter that names it to its name."""
    present = list(present)
    for parameter, name in wanted.items():
        if name not in present:
            near = _similar(name, present)
            column, other = OTHER_SHAPES.get(parameter, ("", ""))
            yield Fault("DATA-E0601", name, f"the columns {_listed(present)}", f"a column {name!r}",
                        other if other and column in present else
                        f"{near} Rename it, or set {parameter} to the name that the file uses" if near else
                        f"set {parameter} to the name that the file uses")  # fmt: skip


def named_by(columns: Any, names: Iterable[str]) -> dict[str, str]:
    """Map the parameters of a task's columns to the column names that they hold."""
    held: dict[str, str] = {}
    for parameter, value in columns.model_dump().items():
        if parameter.endswith(("_key", "_lang", "_column")):
            held.setdefault(value, parameter)
    return {held.get(name, name): name for name in names}


def _similar(name: str, present: list[str]) -> str:
    same = [other for other in present if other.strip().lower() == name.strip().lower()]
    if not same and not nearest(name, present):  # chosen for chosen_response
        same = [other for other in present if name.lower() in other.lower()]
    return f"did you mean {same[0]!r}?" if same else nearest(name, present)


def _listed(present: list[str]) -> str:
    text = ", ".join(repr(name) for name in present) or "none"
    return text if len(text) <= FOUND_LIMIT else text[: FOUND_LIMIT - 1] + "…"
