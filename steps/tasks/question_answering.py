"""Extractive question answering: each answer is a span of the context.

{"question": "Who wrote it?", "context": "Ada wrote it.", "answers": {"text": ["Ada"], "answer_start": [0]}}
{"question": "Who wrote it?", "context": "Ada wrote it.", "text": "Ada", "answer_start": 0}       with answers_key=""

Starts are character offsets, counted from 0. Without an answer the lists, or the two columns, are empty. In csv and
tsv files a cell holds lists and objects as JSON text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from steps.params.task_columns import AnswerColumns
from steps.tasks import Fault, as_found, kind_of, missing_columns, named_by
from steps.tasks.rules.cells import Reader, broken_cell, from_cell, read_cell, text_faults, whole_number

Columns = AnswerColumns
KINDS = ("question_answering",)
DOES = "finds answers in texts"
EXAMPLE = '[{"question": "Who wrote it?", "context": "Ada wrote it."}]'
CONVERSATIONS = False
UNFIT: dict[str, str] = {}

ANSWER = pa.struct([pa.field("text", pa.string(), nullable=False), pa.field("start", pa.int64(), nullable=False)])
SCHEMA = pa.schema(
    [
        pa.field("question", pa.string(), nullable=False),
        pa.field("context", pa.string(), nullable=False),
        # Empty if there is no answer.
        pa.field("answers", pa.list_(ANSWER), nullable=False),
    ]
)


def columns_of(columns: AnswerColumns) -> tuple[str, ...]:
    """Return the required columns."""
    return (columns.question_key, columns.context_key, *_answer_columns(columns))


def cells(columns: AnswerColumns) -> dict[str, Reader]:
    """Return the columns that may hold the answers as JSON text."""
    return dict.fromkeys(_answer_columns(columns) if columns.answers_key else (columns.answer_start_key,), read_cell)


def check_row(row: dict[str, Any], columns: AnswerColumns) -> Iterator[Fault]:
    """Yield the errors in one row: missing texts, a wrong form of answers, answers that are not in the context."""
    yield from text_faults(row, (columns.question_key, columns.context_key), columns)
    for key in _answer_columns(columns):
        if key not in row:
            yield from missing_columns(row, named_by(columns, [key]))
            return
    answers = _answers(row, columns)
    if isinstance(answers, Fault):
        yield answers
        return
    texts, starts = answers
    text_path, start_path = _paths(columns)
    if len(texts) != len(starts):
        yield Fault("DATA-E1202", start_path, f"{len(starts):,} starts for {len(texts):,} texts",
                    "one start for each text", "correct the lists, or remove the row")  # fmt: skip
        return
    if not texts and not columns.allow_no_answer:
        yield Fault("DATA-E1203", text_path, "no answer", "an answer, as allow_no_answer is false",
                    "add it, remove the row, or set allow_no_answer=true")  # fmt: skip
    context = row.get(columns.context_key)
    if type(context) is not str:
        return
    for index, (text, start) in enumerate(zip(texts, starts, strict=True)):
        place = start if type(start) is int else whole_number(start)
        if not (type(text) is str and text and place is not None and place >= 0 and context.startswith(text, place)):
            many = f"[{index}]" if type(row.get(_answer_columns(columns)[0])) is not str or len(texts) > 1 else ""
            yield _answer_fault(text, start, context, text_path + many, start_path + many)


def remarks(row: dict[str, Any], columns: AnswerColumns) -> Iterator[tuple[str, str]]:
    """Yield nothing: there are no remarks on a valid question."""
    return iter(())


def canonical(row: dict[str, Any], columns: AnswerColumns) -> dict[str, Any]:
    """Keep question and context, and each answer with its start.

    {"question": …, "context": …, "answers": {"text": ["Ada"], "answer_start": [0]}, "id": 7}
    → {"question": …, "context": …, "answers": [{"text": "Ada", "start": 0}]}
    """
    texts, starts = _answers(row, columns)  # type: ignore[misc]
    return {
        "question": row[columns.question_key],
        "context": row[columns.context_key],
        "answers": [
            {"text": text, "start": whole_number(start)} for text, start in zip(texts, starts, strict=True)
        ],
    }  # fmt: skip


def training_row(row: dict[str, Any], columns: AnswerColumns) -> dict[str, Any]:
    """Return the canonical row, which the trainer of an extractive model uses unchanged."""
    return row


def question(row: dict[str, Any], columns: AnswerColumns) -> None:
    """Return None: the answer is a span of the context, not generated text."""
    return


def _answer_columns(columns: AnswerColumns) -> tuple[str, ...]:
    return (columns.answers_key,) if columns.answers_key else (columns.answer_text_key, columns.answer_start_key)


def _paths(columns: AnswerColumns) -> tuple[str, str]:
    inside = f"{columns.answers_key}." if columns.answers_key else ""
    return inside + columns.answer_text_key, inside + columns.answer_start_key


def _answers(row: dict[str, Any], columns: AnswerColumns) -> tuple[list[Any], list[Any]] | Fault:
    """Return texts and starts of a row's answers, unchecked, or the fault in their form."""
    text_key, start_key = columns.answer_text_key, columns.answer_start_key
    if not columns.answers_key:
        return _flat(row, text_key, start_key)
    key = columns.answers_key
    try:
        answers = from_cell(row[key])
    except ValueError as error:
        return broken_cell(key, row[key], error, f"{{{text_key}, {start_key}}}")
    if type(answers) is list and all(type(answer) is dict for answer in answers):  # as in the original SQuAD files
        absent = [answer for answer in answers if text_key not in answer or start_key not in answer]
        if not absent:
            return [answer[text_key] for answer in answers], [answer[start_key] for answer in answers]
        answers = absent[0]
    if type(answers) is not dict:
        return Fault("DATA-E1201", key, as_found(row[key]), f"an object with {text_key} and {start_key}, not "
                     f"{kind_of(answers)}", f'write it as {{"{text_key}": […], "{start_key}": […]}}')  # fmt: skip
    if text_key not in answers or start_key not in answers:
        keys = ", ".join(map(str, answers))[:60] or "none"
        return Fault("DATA-E1201", key, f"the keys {keys}", f"the keys {text_key} and {start_key}",
                     "rename them, or set answer_text_key and answer_start_key")  # fmt: skip
    texts, starts = answers[text_key], answers[start_key]
    if type(texts) is list and type(starts) is list:
        return texts, starts
    if type(texts) is list or type(starts) is list or texts is None:
        return Fault("DATA-E1201", key, f"{kind_of(texts)} of {text_key}, {kind_of(starts)} of {start_key}",
                     "two lists", f'write it as {{"{text_key}": […], "{start_key}": […]}}')  # fmt: skip
    return [texts], [starts]


def _flat(row: dict[str, Any], text_key: str, start_key: str) -> tuple[list[Any], list[Any]] | Fault:
    """Return texts and starts of separate columns; if the start is a list, a text cell holds a list too."""
    text, start = row[text_key], row[start_key]
    try:
        start = from_cell(start)
    except ValueError as error:
        return broken_cell(start_key, start, error, "a list of starts")
    if type(start) is list:
        try:
            text = from_cell(text)
        except ValueError as error:
            return broken_cell(text_key, text, error, "a list of texts")
        if type(text) is not list:
            return Fault("DATA-E1201", text_key, as_found(text), f"a list of texts, as {start_key} is a list",
                         "write both as lists")  # fmt: skip
        return text, start
    if type(text) is list:
        return Fault("DATA-E1201", start_key, as_found(start), f"a list of starts, as {text_key} is a list",
                     "write both as lists")  # fmt: skip
    return ([], []) if text in (None, "") and start in (None, "") else ([text], [start])


def _answer_fault(text: Any, start: Any, context: str, text_path: str, start_path: str) -> Fault:
    """Return the fault of an answer that is not at its start, with the correct start if there is one."""
    if type(text) is not str or not text:
        return Fault("DATA-E1207", text_path, as_found(text), "the text of the answer",
                     "fill it in, or leave text and start empty for a question without an answer")  # fmt: skip
    place = whole_number(start)
    if place is None:
        return Fault("DATA-E1206", start_path, as_found(start), "a whole number of characters",
                     "write it as a plain number")  # fmt: skip
    nearest = _nearest_place(text, context, place)
    correct = f"set it to {nearest}" if nearest is not None else "correct text and start, or remove the row"
    if not 0 <= place < len(context):
        return Fault("DATA-E1204", start_path, as_found(place), f"an offset in the context, 0 to {len(context) - 1:,}",
                     correct)  # fmt: skip
    if nearest is None:
        return Fault("DATA-E1205", text_path, as_found(text), "text that occurs in the context exactly like this",
                     "copy the answer from the context, or remove the row")  # fmt: skip
    if context.encode("utf-8", "replace")[place:].startswith(text.encode("utf-8", "replace")):
        correct += " (offsets are counted in characters; this one counts bytes)"
    standing = as_found(context[place : place + len(text)])
    return Fault("DATA-E1205", start_path, f"{standing} at {place:,}", f"{as_found(text)}, which is at {nearest:,}",
                 correct)  # fmt: skip


def _nearest_place(text: str, context: str, place: int) -> int | None:
    """Find the occurrence of the text in the context that is nearest to an offset."""
    place = min(max(place, 0), len(context))
    found = [spot for spot in (context.rfind(text, 0, place + len(text)), context.find(text, place)) if spot >= 0]
    return min(found, key=lambda spot: abs(spot - place), default=None)
