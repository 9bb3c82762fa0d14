"""Nothing odd passes without a word: every column of every task, in every format, with every odd value.

A value is refused, repaired with a count or warned of; what is right as it is stands in FINE, with the reason.
"""

import copy
import csv
import datetime
import decimal
import json
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checking import check_data
from data_cases import assert_six_parts
from row_forms import bot, user

from steps.errors import StepError
from steps.tasks import TASKS, load_task

pytestmark = pytest.mark.slow  # together half a minute: too long for test-fast

ROWS = 20
ODD_ROW = 5


TOOL = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}


def calls(number):
    call = {"id": f"c{number}", "type": "function", "function": {"name": "add", "arguments": {"a": number}}}
    return [
        user(f"question {number}"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": f"c{number}", "content": f"{number}"},
        bot(f"answer {number}"),
    ]


@dataclass
class Shape:
    """One kind of row of a task."""

    task: str
    row: Any
    """Number → row."""
    texts: tuple[str, ...] = ()
    """Paths of what is learned or shown to the model as text."""
    others: tuple[str, ...] = ()
    """Paths of labels, lists and objects."""
    options: dict[str, Any] = field(default_factory=dict)


SHAPES = {
    "chat": Shape("chat_completion", lambda n: {"messages": [user(f"question {n}"), bot(f"answer {n}")]},
                  ("messages.0.content", "messages.1.content"), ("messages", "messages.0", "messages.0.role")),
    "calls": Shape("chat_completion", lambda n: {"tools": [TOOL], "messages": calls(n)},
                   ("messages.2.content", "messages.3.content"),
                   ("tools", "tools.0", "tools.0.function", "messages.1.tool_calls", "messages.1.tool_calls.0",
                    "messages.2.tool_call_id", "messages.1.tool_calls.0.id", "messages.1.tool_calls.0.type",
                    "messages.1.tool_calls.0.function.name", "tools.0.function.name", "tools.0.function.parameters",
                    "tools.0.function.description")),
    "pairs of answers": Shape("preference", lambda n: {"prompt": f"question {n} ", "chosen": f"yes {n}",
                                                       "rejected": f"no {n}"}, ("prompt", "chosen", "rejected")),
    "pairs of messages": Shape(
        "preference", lambda n: {"prompt": [user(f"question {n}")], "chosen": [bot(f"y {n}")],
                                 "rejected": [bot(f"n {n}")]},
        ("prompt.0.content", "chosen.0.content", "rejected.0.content"), ("prompt.0", "chosen.0.role", "rejected.0")),
    "rated": Shape("kto", lambda n: {"prompt": f"question {n} ", "completion": f"yes {n}", "label": bool(n % 2)},
                   ("prompt", "completion"), ("label",)),
    "pretraining": Shape("pretraining", lambda n: {"text": f"some text {n}"}, ("text",)),
    "prompts": Shape("text_generation", lambda n: {"text": f"question {n} ", "answer": f"answer {n}"},
                     ("text", "answer"), options={"ground_truth_key": "answer"}),
    "classes": Shape("text_classification", lambda n: {"sentence1": f"some text {n}", "label": "ab"[n % 2]},
                     ("sentence1",), ("label",)),
    "numbered classes": Shape(
        "text_classification", lambda n: {"sentence1": f"some text {n}", "sentence2": f"and {n}", "label": n % 2},
        ("sentence1", "sentence2"), ("label",), {"sentence2_key": "sentence2"}),
    "several classes": Shape(
        "text_classification", lambda n: {"sentence1": f"some text {n}", "label": ["a", "b"] if n % 3 else ["b"]},
        ("sentence1",), ("label", "label.0"), {"multilabel": True}),
    "tags": Shape("token_classification", lambda n: {"tokens": ["Ada", f"word{n}"], "tags": ["B-PER", "O"]},
                  (), ("tokens", "tokens.0", "tags", "tags.0")),
    "numbered tags": Shape("token_classification", lambda n: {"tokens": ["Ada", f"word{n}"], "tags": [1, 0]},
                           (), ("tokens", "tokens.0", "tags", "tags.0"), {"tags": "O,B-PER"}),
    "answers": Shape(
        "question_answering", lambda n: {"question": f"Who {n}?", "context": f"Ada wrote it {n}",
                                         "answers": {"text": ["Ada"], "answer_start": [0]}},
        ("question", "context"), ("answers", "answers.text", "answers.text.0", "answers.answer_start",
                                  "answers.answer_start.0")),
    "flat answers": Shape(
        "question_answering", lambda n: {"question": f"Who {n}?", "context": f"Ada wrote it {n}", "text": "Ada",
                                         "answer_start": 0},
        ("question", "context"), ("text", "answer_start"), {"answers_key": ""}),
    "summaries": Shape("summarization", lambda n: {"document": f"a document with the number {n}",
                                                   "summary": f"number {n}"}, ("document", "summary")),
    "translations": Shape("translation", lambda n: {"en": f"cat {n}", "de": f"Katze {n}"}, ("en", "de")),
    "one column of translations": Shape(
        "translation", lambda n: {"translation": {"en": f"cat {n}", "de": f"Katze {n}"}},
        ("translation.en", "translation.de"), ("translation",), {"translation_key": "translation"}),
    "passages": Shape("reranking", lambda n: {"query": f"who {n}", "passage": f"passage {n}", "relevant": n % 2},
                      ("query", "passage"), ("relevant",)),
    "rewarded": Shape("grpo", lambda n: {"problem": f"what is {n} plus one", "solution": f"it is {n + 1}", "level": n},
                      ("problem", "solution"), ("level",)),
    "rewarded messages": Shape("grpo", lambda n: {"prompt": [user(f"what is {n}")], "solution": f"it is {n + 1}"},
                               ("prompt.0.content", "solution"), ("prompt.0",)),
    "asked": Shape("prompts", lambda n: {"prompt": f"question {n}", "right": f"it is {n}", "system": f"rule {n}"},
                   ("prompt", "right"), (), {"reference_key": "right"}),
    "asked messages": Shape("prompts", lambda n: {"messages": [user(f"question {n}"), bot(f"answer {n}")]},
                            ("messages.0.content",), ("messages", "messages.0", "messages.0.role")),
    "verl": Shape("verl", lambda n: {"data_source": "openai/gsm8k", "prompt": [user(f"q {n}")], "ability": "math",
                                     "reward_model": {"style": "rule", "ground_truth": f"{n}"},
                                     "extra_info": {"index": n}},
                  ("prompt.0.content", "reward_model.ground_truth", "reward_model.style"),
                  ("data_source", "reward_model", "extra_info", "extra_info.index")),
}  # fmt: skip

BLANK = {
    "null": None, "empty": "", "blank": " ", "no-break space": "\u00a0", "zero-width space": "\u200b",
    "byte order mark": "\ufeff", "control characters": "\x01\x02", "line separator": "\u2028",
    "joiners": "\u2060\u200d", "soft hyphen": "\u00ad", "ideographic space": "\u3000", "braille blank": "\u2800",
    "filler": "\u3164", "variation selector": "\ufe0f", "direction marks": "\u202a\u202c", "only nul": "\0",
}  # fmt: skip
NO_TEXT = {
    "number": 5, "fraction": 1.5, "true": True, "wide number": 10**30, "wide negative": -(2**63) - 1,
    "nan": float("nan"), "infinity": float("inf"), "minus infinity": float("-inf"), "empty list": [], "list": ["a"],
    "nested list": [["a"]], "empty object": {}, "object": {"a": 1}, "date": datetime.date(2026, 1, 2),
    "time": datetime.time(3, 4), "moment": datetime.datetime(2026, 1, 2, 3, 4),
    "duration": datetime.timedelta(seconds=3), "decimal": decimal.Decimal("1.50"),
    "whole decimal": decimal.Decimal("2.00"), "bad bytes": b"\xff",
}  # fmt: skip
DAMAGED = {"trailing nul": "text\0", "mark inside": "a\ufeffb", "replaced": "caf\ufffd", "surrogate": "\ud800"}
NO_LABEL = {"-1": -1, "-100": -100, "minus one as text": "-1", "minus hundred as text": "-100"}
slow = pytest.mark.slow
# Fast: one format with types; the others are read like it, or have no types (csv, tsv).
# A reader of each kind; the others, which share it, are long tests.
TYPED = ("jsonl", pytest.param("parquet", marks=slow), *(pytest.param(kind, marks=[slow, pytest.mark.long])
                                                         for kind in ("json", "mltable", "dataset")))  # fmt: skip
FORMATS = (*TYPED, pytest.param("csv", marks=slow), pytest.param("tsv", marks=[slow, pytest.mark.long]))


def put(row, path, value):
    row = copy.deepcopy(row)
    at, keys = row, [int(key) if key.isdigit() else key for key in path.split(".")]
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = value
    return row


def cell(value):
    """Write a value as csv.writer users do: lists and objects as JSON, null as nothing."""
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, (list, dict)) else "" if value is None else value


def written(kind, folder, rows):
    """Write rows in a format; None if it cannot hold them."""
    folder.mkdir()
    file = folder / f"rows.{kind}"
    try:
        if kind in ("jsonl", "mltable"):
            file.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            if kind == "mltable":
                table = "paths: [{file: rows.jsonl}]\ntransformations: [read_json_lines: {}]"
                (folder / "MLTable").write_text(table)
                return folder
        elif kind == "json":
            file.write_text(json.dumps(rows))
        elif kind in ("csv", "tsv"):
            with open(file, "w", newline="", encoding="utf-8") as stream:
                writer = csv.writer(stream, delimiter="," if kind == "csv" else "\t")
                writer.writerows([list(rows[0]), *([cell(value) for value in row.values()] for row in rows)])
        elif kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), file)
        else:
            from datasets import Dataset

            Dataset.from_list(rows).save_to_disk(str(folder / "saved"))
            return folder / "saved"
    except (TypeError, ValueError, OverflowError, pa.ArrowException):
        return None
    return file


def told(shape, kind, folder, rows):
    """Return the codes of all that is said of the rows, None if the format cannot hold them."""
    file = written(kind, folder, rows)
    if file is None:
        return None
    try:
        checked = check_data(shape.task, file, columns=load_task(shape.task).Columns(**shape.options))
    except StepError as error:
        for problem in error.problems:
            assert_six_parts(str(problem))
        return {problem.code for problem in error.problems}
    return {note["code"] for note in checked.repairs + checked.warnings} - {"DATA-F2401"}


def silent(name, kind, folder, paths, values, is_fine, numbered=False):
    """Return what passes without a word: a value in one row, or in all of them if columns have one type.

    With `numbered`, texts in all rows differ, because rows that are the same in all columns cannot be split.
    """
    shape = SHAPES[name]
    good = [shape.row(number) for number in range(ROWS)]
    usual = told(shape, kind, folder / "usual", good)
    found = []
    for path in paths:
        for what, value in values.items():
            for every in (False, True) if kind in ("parquet", "dataset") else (False,):
                odd = [f"{value}{n}" if numbered and every else value for n in range(ROWS)]
                rows = [put(row, path, odd[n]) if every or n == ODD_ROW else row for n, row in enumerate(good)]
                place = folder / f"{len(list(folder.iterdir()))}"
                said = told(shape, kind, place, rows)
                if said is not None and not said - usual and not is_fine(path, what):
                    found.append(f"{path}: {what}{' in every row' if every else ''}")
    return found


def test_every_task_has_a_shape():
    assert {shape.task for shape in SHAPES.values()} == set(TASKS)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", SHAPES)
def test_no_text_that_nobody_can_see_passes_without_a_word(tmp_path, name, kind):
    paths = SHAPES[name].texts
    # an empty ability or ground truth says that there is none; beside a call, an assistant may say nothing
    assert silent(name, kind, tmp_path, paths, BLANK, lambda path, what: False) == []


@pytest.mark.parametrize("kind", TYPED)
@pytest.mark.parametrize("name", SHAPES)
def test_nothing_but_a_text_passes_for_a_text_without_a_word(tmp_path, name, kind):
    assert silent(name, kind, tmp_path, SHAPES[name].texts, NO_TEXT, lambda path, what: False) == []


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", SHAPES)
def test_no_damaged_text_passes_without_a_word(tmp_path, name, kind):
    assert silent(name, kind, tmp_path, SHAPES[name].texts, DAMAGED, lambda path, what: False, numbered=True) == []


# What is right as it is: shape or path, values.
FINE = {
    ("tags", "tokens.0"): {*NO_LABEL},  # a word
    ("numbered tags", "tokens.0"): {*NO_LABEL},
    ("several classes", "label"): {"empty list", "list"},  # no label applies; a list of labels
    ("answers", "answers"): {"empty list"},  # no answer, as in SQuAD
    ("rated", "label"): {"true"},
    ("passages", "relevant"): {"true"},
    ("calls", "tools"): {"null", "empty", "empty list", "empty object", *BLANK},  # tools are optional
    ("calls", "messages.2.tool_call_id"): {"null"},  # with a single call
    ("calls", "messages.1.tool_calls.0.id"): {"null"},  # templates do without
    ("calls", "messages.1.tool_calls.0.type"): {"null", *NO_LABEL},  # any text, as templates of vendors have them
    ("calls", "messages.1.tool_calls.0.function.name"): {*NO_LABEL},
    ("calls", "tools.0.function.name"): {*NO_LABEL},
    ("calls", "tools.0.function.parameters"): {"null", "empty object", "object"},
    ("calls", "tools.0.function.description"): {*BLANK, *NO_LABEL},
    ("rewarded", "level"): {*NO_TEXT, *BLANK, *NO_LABEL},  # passed to the reward functions as it is
    ("verl", "extra_info.index"): {*NO_LABEL, *BLANK, "number", "wide number", "wide negative"},
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", SHAPES)
def test_no_odd_label_list_or_object_passes_without_a_word(tmp_path, name, kind):
    values = {**BLANK, **NO_TEXT, **DAMAGED, **NO_LABEL}
    if kind in ("csv", "tsv"):  # without types: 5 and "5" are the same there
        values = {what: value for what, value in values.items() if what not in ("number", "whole decimal")}

    def fine(path, what):
        if kind in ("csv", "tsv") and (name, path) == ("rewarded messages", "prompt.0"):
            return True  # without an object, "[5]" is the text of a prompt
        return what in FINE.get((name, path), ())

    assert silent(name, kind, tmp_path, SHAPES[name].others, values, fine) == []
