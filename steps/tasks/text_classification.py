"""Texts, or pairs of texts, with a class.

{"sentence1": "Great value.", "label": "good"}
{"sentence1": "It rains.", "sentence2": "It is wet.", "label": 1}      with sentence2_key="sentence2"
{"sentence1": "A war film.", "label": "war|drama"}                     with multilabel=true; or a list

Labels become texts: 1 and 1.0 are "1", false and true are "0" and "1". The class list is the sorted list of labels,
so a class number may differ from a numeric label.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from steps.errors import nearest
from steps.params.task_columns import ClassificationColumns
from steps.tasks import Fault, OtherColumns, as_found, missing_columns, named_by
from steps.tasks.rules.cells import Reader, broken_cell, from_cell, read_cell, text_faults
from steps.tasks.rules.characters import is_blank
from steps.tasks.rules.counting import Judgement, Tally
from steps.tasks.rules.labels import STARTS, as_label, declared, judge_labels, judge_numbers, names_in

Columns = ClassificationColumns
KINDS = ("sequence_classification",)
DOES = "gives texts their label"
EXAMPLE = '["Great value."]'
EXAMPLE_OF_PAIRS = '[{"sentence1": "It rains.", "sentence2": "It is wet."}]'
CONVERSATIONS = False
UNFIT: dict[str, str] = {}

SCHEMA = pa.schema(
    [
        pa.field("sentence1", pa.string(), nullable=False),
        pa.field("sentence2", pa.string()),
        # One label; any number with multilabel=true.
        pa.field("labels", pa.list_(pa.string()), nullable=False),
    ]
)

# A shuffled split is stratified by this column.
ASKED = ("sentence1", "sentence2")  # rows that are equal in them should have the same label
STRATIFY = "labels"


def columns_of(columns: ClassificationColumns) -> tuple[str, ...]:
    """Return the required columns."""
    return (*_texts(columns), columns.label_key)


def other_columns(columns: ClassificationColumns) -> OtherColumns:
    """Say which column holds classes."""
    return OtherColumns(classes=(columns.label_key,))


def cells(columns: ClassificationColumns) -> dict[str, Reader]:
    """Return the column that may hold a list of labels as JSON text."""
    return {columns.label_key: read_cell} if columns.multilabel else {}


def check_row(row: dict[str, Any], columns: ClassificationColumns) -> Iterator[Fault]:
    """Yield the errors in one row: its texts, its label, or several labels instead of one."""
    yield from text_faults(row, _texts(columns), columns)
    key = columns.label_key
    value = row.get(key)
    if not columns.multilabel:
        if type(value) is str and value[:1] not in STARTS:  # the common case: a label that is a name
            if is_blank(value) or columns.label_separator in value:
                yield _label_fault(value, key, columns)
            elif columns.labels and value not in declared(columns.labels):
                yield _not_listed(value, key, columns)
        elif key not in row:
            yield from missing_columns(row, named_by(columns, [key]))
        elif (label := as_label(value)) is None or columns.label_separator in label or _is_list(value):
            yield _label_fault(value, key, columns)
        elif columns.labels and label not in declared(columns.labels):
            yield _not_listed(value, key, columns)
        return
    if key not in row:
        yield from missing_columns(row, named_by(columns, [key]))
        return
    try:
        values = _apart(value, columns)
    except ValueError as error:
        yield broken_cell(key, str(value), error, "a list of labels")
        return
    if len(values) > len(set(values if all(map(_is_digit, values)) else ())) > 0:
        yield Fault("DATA-E1009", key, as_found(value), "the labels that apply, each once", "this is one number for "
                    "each class; write the names or numbers of the classes with a 1")  # fmt: skip
        return
    for index, part in enumerate(values):
        path = key if values == [value] else f"{key}[{index}]"
        if (label := as_label(part)) is None:
            yield _label_fault(part, path, columns)
        elif columns.labels and label not in declared(columns.labels):
            yield _not_listed(part, path, columns)


def remarks(row: dict[str, Any], columns: ClassificationColumns) -> Iterator[tuple[str, str]]:
    """Yield the repairs of labels: true/false and 1.0 converted, duplicates removed."""
    value = row[columns.label_key]
    if not columns.multilabel:
        if type(value) is not str or value[:1] in STARTS:
            yield from _repairs(value)
        return
    values = _apart(value, columns)
    for part in values:
        yield from _repairs(part)
    if len(set(map(as_label, values))) < len(values):
        yield "DATA-F1004", "a label that occurs twice in one row was counted once"


def canonical(row: dict[str, Any], columns: ClassificationColumns) -> dict[str, Any]:
    """Keep the texts, and the labels as text.

    {"text": "Great value.", "stars": 5.0, "id": 7} → {"sentence1": "Great value.", "sentence2": None, "labels": ["5"]}
    """
    value = row[columns.label_key]
    values = _apart(value, columns) if columns.multilabel else [value]
    second = row[columns.sentence2_key] if columns.sentence2_key else None
    labels = list(dict.fromkeys(map(as_label, values)))
    return {"sentence1": row[columns.sentence1_key], "sentence2": second, "labels": labels}


def training_row(row: dict[str, Any], columns: ClassificationColumns) -> dict[str, Any]:
    """Return the canonical row, which a classifier's trainer uses unchanged."""
    return row


def question(row: dict[str, Any], columns: ClassificationColumns) -> None:
    """Return None: the answer is a class, not generated text."""
    return


def counted(row: dict[str, Any], columns: ClassificationColumns) -> list[str]:
    """Count the labels."""
    return row["labels"]


def judge(tallies: Mapping[str, Tally], columns: ClassificationColumns) -> Iterator[Judgement]:
    """Yield conclusions from the labels of all files: only one class, unseen labels, similar labels, single rows."""
    yield from judge_labels(tallies, columns.label_key, columns.labels, "labels")
    if "train" in tallies and not columns.labels:
        yield from judge_numbers(tallies["train"], columns.label_key)


def label_names(table: pa.Table, columns: ClassificationColumns | None = None) -> list[str]:
    """Return the class list of canonical rows; a label's index in it is its class number.

    Pass the rows of all splits, because train may have no row of a class. `columns` is needed if it lists the labels.
    """
    return names_in(table["labels"], columns.labels if columns else "")


def pairs(columns: ClassificationColumns) -> bool:
    """Return whether there is a column with a second text."""
    return bool(columns.sentence2_key)


def _texts(columns: ClassificationColumns) -> tuple[str, ...]:
    return (columns.sentence1_key, columns.sentence2_key) if columns.sentence2_key else (columns.sentence1_key,)


def _apart(value: Any, columns: ClassificationColumns) -> list[Any]:
    """Split the labels of a row. Raises ValueError for a csv cell that starts like a list but is not JSON."""
    value = from_cell(value)
    if type(value) is list:
        return value
    if type(value) is str and columns.label_separator in value:
        return value.split(columns.label_separator)
    return [value]


def _is_digit(value: Any) -> bool:
    """Return whether a value is 0 or 1, true or false."""
    return (type(value) in (bool, int, float) and value in (0, 1)) or value in ("0", "1", "0.0", "1.0")


def _repairs(value: Any) -> Iterator[tuple[str, str]]:
    if type(value) is bool:
        yield "DATA-F1001", "labels false and true became 0 and 1"
    elif type(value) is not int and as_label(value) != value:
        yield "DATA-F1002", "labels with a decimal point became whole numbers"


def _is_list(value: Any) -> bool:
    """Return whether a label is a list, or a csv cell with a list as JSON text."""
    try:
        return type(from_cell(value)) is list
    except ValueError:
        return False


def _label_fault(value: Any, path: str, columns: ClassificationColumns) -> Fault:
    found = as_found(value)
    if value is None or (type(value) is str and is_blank(value)):
        fix = "write [] where no label applies" if columns.multilabel else "fill it in, or remove the row"
        return Fault("DATA-E1001", path, found, "a label", fix)
    if _is_list(value) or (type(value) is str and columns.label_separator in value):
        fix = "set multilabel=true if a row may have several labels"
        if not _is_list(value):
            fix += ", or label_separator to a text that occurs in no label"
        return Fault("DATA-E1003", path, found, "one label", fix)
    return Fault("DATA-E1002", path, found, "a name or a whole number",
                 "write a name, such as \"class 1.5\", or a whole number without separators")  # fmt: skip


def _not_listed(value: Any, path: str, columns: ClassificationColumns) -> Fault:
    listed = list(declared(columns.labels))
    near = nearest(str(value), listed)
    return Fault("DATA-E1004", path, as_found(value), f"one of {', '.join(listed)[:60]}",
                 f"{near} Or add it to labels" if near else "correct it, or add it to labels")  # fmt: skip
