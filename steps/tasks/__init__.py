"""Tasks: the columns of each kind of data, the checks of a row, its canonical form, and its prompt and answer.

One module per task; all define the same names (without a common base class):

    Columns                       the column parameters (a Group from steps/params/)
    KINDS                         model kinds for this task (steps/kinds/models), the default first; another kind is
                                  used when the model was made for it
    DOES, EXAMPLE                 what a model of this task does, and an example input, for the model card;
                                  EXAMPLE_OF_PAIRS if pairs of texts have another one
    CONVERSATIONS                 whether rows are conversations, which a chat template renders
    PLAIN_TEXTS                   whether rows may also be plain text (.txt); False if not defined
    LEARNS                        whether rows are for training; if not, rows of one split are enough, may repeat, and
                                  are never divided; True if not defined
    WRITER                        module that writes the rows, if that is not the model kind's or the method's
    UNFIT                         parameter without effect for the task → reason
    columns_of(columns)           required column names in the user's file
    other_columns(columns)        optional and alternative columns (OtherColumns); this function is optional
    SCHEMA                        pyarrow schema of the canonical rows
    with_images(row, columns, folder)   raw row → (the row with its images as bytes, its Faults), before check_row;
                                  `folder` is what paths start from, None without; this function is optional
    check_row(row, columns)       yields a Fault for every error in one raw row
    remarks(row, columns)         yields remarks on a valid raw row, as (code, sentence): DATA-W… is a warning,
                                  DATA-F… a repair that canonical() makes without loss
    canonical(row, columns)       raw row → canonical row; only called on rows without a Fault
    training_row(row, columns)    canonical row → the columns for TRL: {messages}, {prompt, completion}, {text}, …
    question(row, columns)        canonical row → (prompt, reference answer) for generation, or None

    cells(columns)                column → the function that reads a list or an object from JSON text in it, and
                                  returns any other value unchanged; this function is optional

and, for checks across rows:

    counted(row, columns)         canonical row → the keys that are counted over the file (labels, tags, …)
    STRATIFY                      canonical column (a list) by which a shuffled split is stratified
    TOGETHER                      canonical column, or several: rows that are equal in it are held out together; without
                                  it, rows that are equal in all columns
    ASKED                         canonical columns: rows that are equal in them alone contradict each other
    TOGETHER_AS                   what TOGETHER holds together, in messages; "equal rows" without it
    judge(tallies, columns)       {split: Tally} of the given files → yields a Judgement (steps/tasks/rules/counting.py)

and, for classes:

    STRATIFY                      canonical column by which a shuffled split is stratified (one label per row)
    label_names(table, columns)   canonical rows → the class list; a label's index in it is its class number
    pairs(columns)                whether rows are pairs of texts; without this function they are single texts
    SCORES                        "module:function" that measures what this task alone has: (canonical rows,
                                  probabilities of shape (rows, classes), class list) → Scored (steps/scoring/scored.py)
    TEXTS                         column names of a registered model's texts, sentence1 and sentence2 if not defined
    SCORED                        class whose probability a registered model gives as `score`, beside the label

and, for rewards, whose canonical rows also have the columns of rules/rewarded.py:

    prompt_column(columns)        column of the question, and truth_column(columns) that of the right answer
    other_truths(columns)         columns that are read if that of the right answer is missing
    nested_column(columns)        column with an object whose keys are columns for the rewards; empty if there is none
    NAME_TRUTH                    what to set if the right answers are in another column

and, for prompts made from a text:

    model_problems(p, recipe, config)   yields a Problem for every parameter that this model cannot be used with
    prompt_form(columns)          the prompt's text before and after the row's text; the registered model adds both

A canonical row holds the texts that later steps need: `training_row` and `question` use `columns` only for the form of
a prompt, so a reader of rows/<split>.parquet needs no column names.

Codes of the tasks: 04 conversations, 06 columns and texts, 10 labels, 11 tags, 12 answers, 13 summaries,
14 translations, 15 preferences, rewards and prompts. Checks shared by several tasks are in cells.py (single values),
labels.py (all labels of a file), messages.py, tool_calls.py and answers.py.

To add a task: a module here, its parameters in steps/params/pipelines/, and a test.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from steps.errors import FOUND_LIMIT, nearest
from steps.params.secrets import without_secrets

TASKS = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg))

MISSING = "DATA-E0601"
RATED, PAIRS = "set method=kto if these are rated answers", "set kto_rows=pairs if these are pairs"
CHATS = "use the pipeline chat_completion, which reads conversations"
# For a missing column: parameter → columns that suggest another setting, and that setting.
OTHER_SHAPES = {
    "source_lang": {"translation": "set translation_key=translation"},
    "target_lang": {"translation": "set translation_key=translation"},
    "answers_key": {"answer_start": "set answers_key to an empty text if each row has one answer in separate columns"},
    "completion_key": {"chosen": PAIRS},
    "label_key": {"chosen": PAIRS},
    "chosen_key": dict.fromkeys(("completion", "label", "kto_tag"), RATED),
    "rejected_key": dict.fromkeys(("completion", "label", "kto_tag"), RATED),
    "text_key": {
        "completion": "for prompts with completions, use text_generation with text_key=prompt and "
        "ground_truth_key=completion",
        **dict.fromkeys(("messages", "conversations", "instruction"), CHATS),
    },
}


@dataclass(frozen=True)
class Fault:
    """An error in one row; prepare_data adds file, record and line."""

    code: str
    """Such as DATA-E0412."""
    column: str
    """Path inside the row, such as messages[1].role."""
    found: str
    expected: str
    fix: str


@dataclass(frozen=True)
class OtherColumns:
    """Columns that a file may have in addition to the required ones, or instead of them."""

    optional: Collection[str] | None = ()
    """Used if present; None means every column."""
    instead: Mapping[str, str] = field(default_factory=dict)
    """Required column → the column that is used if it is absent."""
    classes: Collection[str] = ()
    """Columns of classes: numbers are read as names if the file lists these (`ClassLabel` of the library datasets)."""
    raw: Collection[str] = ()
    """Columns in which bytes stay bytes: those of images."""

    def in_place(self, wanted: Mapping[str, str], present: Collection[str]) -> dict[str, str]:
        """Return `wanted` (parameter → required column) with the column names of the file."""
        there = set(present)
        return {
            parameter: self.instead[name] if name not in there and self.instead.get(name) in there else name
            for parameter, name in wanted.items()
        }

    def used(self, wanted: Mapping[str, str], present: Iterable[str]) -> list[str]:
        """Return the columns of a file that are read, in the file's order, each once."""
        named = set(wanted.values())  # a file may have very many columns
        return [
            name for name in dict.fromkeys(present) if self.optional is None or name in self.optional or name in named
        ]

    def known(self, required: Iterable[str]) -> set[str] | None:
        """Return every column name that is used; None if all are."""
        return None if self.optional is None else {*required, *self.instead.values(), *self.optional}

    def missing(self, present: Iterable[str], wanted: Mapping[str, str]) -> Iterator[Fault]:
        """Yield a fault for every missing column of a table; `wanted` as returned by `in_place`."""
        return missing_columns(present, wanted)


NO_OTHERS = OtherColumns()


def load_task(name: str) -> ModuleType:
    """Import a task's module. Raises KeyError for a name that is none."""
    if name not in TASKS:
        raise KeyError(name)
    return importlib.import_module(f"steps.tasks.{name}")


def learns(name: str) -> bool:
    """Return whether the rows of a task are for training."""
    return bool(getattr(load_task(name), "LEARNS", True))


def reads_pairs(name: str, columns: Mapping[str, Any]) -> bool:
    """Return whether the rows of a task are pairs of texts; `columns` are the values of its parameters."""
    task = load_task(name)
    return hasattr(task, "pairs") and task.pairs(task.Columns(**columns))


def as_found(value: object) -> str:
    """Format a value from a data file as JSON, with control characters escaped and secrets removed.

    `steps.errors.shown` writes Python, but a reader of a jsonl file looks for "bot" and null, not for 'bot' and None.
    """
    text = json.dumps(value, ensure_ascii=False, default=lambda other: f"{type(other).__name__} {other}")
    text = without_secrets(text[: 8 * FOUND_LIMIT])  # a text may be as long as a book
    text = visible(text)
    return text if len(text) <= FOUND_LIMIT else text[: FOUND_LIMIT - 1] + "…"


def visible(text: str) -> str:
    """Escape control characters, so that a message is one line and a terminal does not interpret them."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def kind_of(value: object) -> str:
    """Return the name of a value's JSON type."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true/false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def missing_columns(present: Iterable[str], wanted: Mapping[str, str]) -> Iterator[Fault]:
    """Yield a Fault for every missing column; `wanted` maps parameters to column names."""
    present = list(present)
    for parameter, name in wanted.items():
        if name not in present:
            near = _similar(name, present)
            shapes = OTHER_SHAPES.get(parameter, {})
            other = next((setting for column, setting in shapes.items() if column in present), "")
            yield Fault(MISSING, name, f"the columns {_listed(present)}", f"a column {name!r}",
                        other if other else
                        f"{near} Rename it, or set {parameter} to the name that the file uses" if near else
                        f"set {parameter} to the name that the file uses")  # fmt: skip


def named_by(columns: Any, names: Iterable[str]) -> dict[str, str]:
    """Map the column parameters of a task to those of `names` that they hold."""
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
