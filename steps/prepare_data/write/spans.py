"""Rows for extractive question answering: questions with windows of their context.

A context that is too long is divided into windows that overlap by doc_stride tokens; each window has the question. The
labels of a window are the first and last token of the first answer, or its first token if the window does not contain
the whole answer:

{"question": "Who?", "context": "Ada wrote it.", "answers": [{"text": "Ada", "start": 0}]}
    →  input_ids [CLS, who, ?, SEP, ada, wrote, it, ., SEP], start_positions 4, end_positions 4, row 0

Validation and test windows also have the character offsets of each token in the context (first and end, -1 for other
tokens), so that answers can be read without tokenising again. `row` is the row in rows/<split>.parquet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.artifacts import Draft
from steps.errors import Problem, UserError
from steps.params.settings import DataSettings
from steps.prepare_data.check.checking import DataCheck
from steps.prepare_data.check.rows import Rows, read_back
from steps.prepare_data.check.splitting import SPLITS
from steps.prepare_data.write.classification import has_types
from steps.prepare_data.write.splits import SAMPLES, Preparation
from steps.prepare_data.write.templates import KEEP, load_tokenizer
from steps.prepare_data.write.writing import FIXED, NUMBERS, SAMPLE_TOKENS, length_facts, write_rows
from steps.tasks import load_task

NO_ANSWER = 0  # index of the token that means "no answer": CLS if there is one, else the first token of the question


@dataclass
class Spans(Preparation):
    """Settings and findings that all splits share."""

    with_types: bool = False
    """Whether the model distinguishes question and context by token_type_ids."""

    @property
    def stride(self) -> int:
        """Number of tokens by which two windows overlap."""
        return int(self.settings.columns.get("doc_stride", 128))

    @property
    def room(self) -> int:
        """Most tokens of a question, so that each window advances beyond the one before."""
        taken = self.tokenizer.num_special_tokens_to_add(True)
        return self.settings.max_length - taken - self.stride - 1


@dataclass
class Windows:
    """The windows of some questions."""

    columns: dict[str, list[Any]] = field(default_factory=dict)
    answered: int = 0
    tokens: int = 0


def prepare(settings: DataSettings, folder: Path) -> Spans:
    """Load the tokenizer. Raises UserError if it is unusable, or if windows of this length would not advance."""
    tokenizer = load_tokenizer(folder, KEEP)
    problems = []
    if not tokenizer.is_fast:
        problems.append(
            Problem("DATA-E0809", "tokenizer", "a tokenizer without tokenizer.json", "a fast tokenizer, which maps "
                    "characters to tokens", "save the fast tokenizer beside the model")
        )  # fmt: skip
    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        problems.append(
            Problem("DATA-E0813", "tokenizer", "neither a padding nor an end-of-text token", "one of them, to pad "
                    "the rows of a batch", "add pad_token to the model's tokenizer_config.json")
        )  # fmt: skip
    types = "token_type_ids" in tokenizer.model_input_names and has_types(folder)
    preparation = Spans(settings, load_task(settings.task), tokenizer, with_types=types)
    if preparation.room < 1:
        most = max(settings.max_length // 2, 0)
        problems.append(
            Problem("DATA-E0817", "doc_stride", f"{preparation.stride} with windows of {settings.max_length} tokens",
                    "enough tokens for a question and for more of the context than the overlap",
                    f"lower doc_stride, for example to {most // 2}, or raise max_seq_length")
        )  # fmt: skip
    if problems:
        raise UserError(problems)
    return preparation


def write(draft: Draft, preparation: Spans, checked: DataCheck) -> dict[str, Any]:
    """Write every split and return the facts. Raises UserError with the problems of all splits."""
    settings = preparation.settings
    splits = {name: _write_split(draft, name, checked.rows[name], preparation) for name in SPLITS}
    preparation.refuse_if_problems(splits)
    return {
        "task": settings.task,
        "max_length": settings.max_length,
        "packing": False,
        "template": "",
        "splits": splits,
        "sources": checked.sources,
        "repairs": checked.repairs,
        "warnings": checked.warnings + preparation.warnings,
        "samples": preparation.samples,
    }


def _write_split(draft: Draft, name: str, rows: Rows, preparation: Spans) -> dict[str, Any]:
    """Write rows/<name>.parquet and tokens/<name>.parquet; return the facts of the split."""
    size = preparation.settings.preprocessing.batch_size
    kept, lengths = np.ones(len(rows), bool), np.zeros(len(rows), np.int64)
    file = draft / f"tokens/{name}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    schema = _schema(preparation, name)
    windows = answered = tokens = before = 0
    with pq.ParquetWriter(file, schema, **FIXED) as writer:
        for start in range(0, len(rows), size):
            batch = read_back(rows.table(start, start + size))
            span = slice(start, start + len(batch))
            kept[span], lengths[span] = _fits(preparation, batch)
            good = [row for row, stays in zip(batch, kept[span].tolist(), strict=True) if stays]
            made = _windows(preparation, good, before)
            writer.write_table(pa.table({key: made.columns[key] for key in schema.names}, schema=schema))
            if name == "train" and start == 0:
                preparation.samples = [_sample(preparation, made, place) for place in range(min(SAMPLES, len(good)))]
            windows += len(made.columns["row"])
            answered += made.answered
            tokens += made.tokens
            before += len(good)
    write_rows(draft / f"rows/{name}.parquet", rows.take(np.flatnonzero(kept)))
    _judge_questions(name, rows, kept, preparation)
    return {
        "source": rows.source,
        "rows": int(kept.sum()),
        "sequences": windows,
        "tokens": tokens,
        "supervised_tokens": None,
        "fill": None,
        **length_facts(lengths),
        "truncated": 0,
        "left_out": int((~kept).sum()),
        "windows_with_answer": answered,
    }


def _schema(preparation: Spans, name: str) -> pa.Schema:
    fields = [("input_ids", NUMBERS)] + ([("token_type_ids", NUMBERS)] if preparation.with_types else [])
    fields += [("start_positions", pa.int64()), ("end_positions", pa.int64()), ("row", pa.int64())]
    return pa.schema(fields + ([("first", NUMBERS), ("end", NUMBERS)] if name != "train" else []))


def _fits(preparation: Spans, batch: list[dict[str, Any]]) -> tuple[list[bool], list[int]]:
    """Return which questions are short enough, and the total length of question and context."""
    bare = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
    questions = preparation.tokenizer([row["question"] for row in batch], verbose=False, **bare)["input_ids"]
    contexts = preparation.tokenizer([row["context"] for row in batch], verbose=False, **bare)["input_ids"]
    taken = preparation.tokenizer.num_special_tokens_to_add(True)
    whole = [len(one) + len(other) + taken for one, other in zip(questions, contexts, strict=True)]
    return [len(ids) <= preparation.room for ids in questions], whole


def _windows(preparation: Spans, batch: list[dict[str, Any]], first_row: int) -> Windows:
    """Encode questions and contexts as windows with the positions of their answers."""
    names = ["input_ids", "token_type_ids", "start_positions", "end_positions", "row", "first", "end"]
    made = Windows({name: [] for name in names})
    if not batch:
        return made
    encoded = preparation.tokenizer(
        [row["question"] for row in batch],
        [row["context"] for row in batch],
        truncation="only_second",
        max_length=preparation.settings.max_length,
        stride=preparation.stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=preparation.with_types,
    )
    for window, row in enumerate(encoded["overflow_to_sample_mapping"]):
        inside = np.array([which == 1 for which in encoded.sequence_ids(window)])
        offsets = np.where(inside[:, None], np.array(encoded["offset_mapping"][window]), -1)
        start, end = _place(offsets, inside, batch[row]["answers"])
        for name, value in (("start_positions", start), ("end_positions", end), ("row", first_row + row),
                            ("first", offsets[:, 0]), ("end", offsets[:, 1])):  # fmt: skip
            made.columns[name].append(value)
        made.answered += start != NO_ANSWER
        made.tokens += len(inside)
    made.columns["input_ids"] = encoded["input_ids"]
    made.columns["token_type_ids"] = encoded["token_type_ids"] if preparation.with_types else []
    return made


def _place(offsets: np.ndarray, inside: np.ndarray, answers: list[dict[str, Any]]) -> tuple[int, int]:
    """Return first and last token of the first answer; NO_ANSWER twice if the window does not contain all of it."""
    tokens = np.flatnonzero(inside)
    if not answers or not len(tokens):
        return NO_ANSWER, NO_ANSWER
    begin = answers[0]["start"]
    after = begin + len(answers[0]["text"])
    firsts, ends = offsets[tokens, 0], offsets[tokens, 1]
    if begin < firsts[0] or after > ends[-1]:
        return NO_ANSWER, NO_ANSWER
    start = max(int(np.searchsorted(firsts, begin, side="right")) - 1, 0)
    end = min(int(np.searchsorted(ends, after, side="left")), len(tokens) - 1)
    return int(tokens[start]), int(tokens[max(start, end)])


def _sample(preparation: Spans, made: Windows, place: int) -> dict[str, Any]:
    """Return one window as the model reads it, with the answer marked, for the report."""
    ids = made.columns["input_ids"][place][:SAMPLE_TOKENS]
    start, end = made.columns["start_positions"][place], made.columns["end_positions"][place]
    return {"split": "train", "tokens": list(_pieces(preparation, ids, start, end))}


def _pieces(preparation: Spans, ids: list[int], start: int, end: int) -> Iterator[dict[str, Any]]:
    for first, after, learned in ((0, start, False), (start, end + 1, True), (end + 1, len(ids), False)):
        if ids[first:after]:
            yield {"text": preparation.tokenizer.decode(ids[first:after]) + " ", "supervised": learned}


def _judge_questions(name: str, rows: Rows, kept: np.ndarray, preparation: Spans) -> None:
    """Refuse a split without remaining rows; warn of questions that are too long."""
    long = np.flatnonzero(~kept)
    if not len(long):
        return
    if len(long) == len(rows):
        preparation.problems.append(
            Problem("DATA-E0804", rows.where(0), f"every question of {name} longer than {preparation.room} tokens",
                    "questions that leave enough tokens for the context", "raise max_seq_length, or lower doc_stride")
        )  # fmt: skip
        return
    what = f"questions of {name} longer than {preparation.room} tokens were left out: the context would not fit"
    preparation.warn("DATA-W0806", f"{rows.source}: {what}", [int(rows.records[row]) for row in long], len(long))
