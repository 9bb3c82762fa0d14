"""Refuse tokens for which the model has no embedding, before a training would fail at them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from steps.errors import Problem, UserError
from steps.models.layout import CONFIG, vocabulary_rows
from steps.models.token_range import FIX
from steps.prepare_data.check.splitting import SPLITS

IDS = ("input_ids", "prompt_ids", "chosen_ids", "rejected_ids", "completion_ids")
ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")


def refuse_roles_beyond(tokenizer: Any, folder: Path) -> None:
    """Raise UserError if a token with a role has no embedding; a folder without config.json is not checked."""
    rows = _rows(folder)
    named = {role: getattr(tokenizer, f"{role}_id", None) for role in ROLES}
    problems = [
        Problem("DATA-E0823", f"tokenizer: {role}", f"{getattr(tokenizer, role)} with the number {number}",
                f"a number below {rows}, the model's vocab_size", FIX)
        for role, number in named.items() if rows and number is not None and number >= rows
    ]  # fmt: skip
    if problems:
        raise UserError(problems)


def refuse_tokens_beyond(tokenizer: Any, folder: Path, data: Path, with_labels: bool) -> None:
    """Raise UserError if the rows of a split have tokens without an embedding; `with_labels`: its labels are tokens."""
    rows = _rows(folder)
    problems = [
        Problem("DATA-E0824", f"rows of {split}", f"{tokenizer.convert_ids_to_tokens(number)} with the number {number}",
                f"a number below {rows}, the model's vocab_size", FIX, count=count)
        for split in SPLITS if rows
        for number, count in _beyond(data / f"tokens/{split}.parquet", rows, with_labels)
    ]  # fmt: skip
    if problems:
        raise UserError(problems)


def _beyond(file: Path, rows: int, with_labels: bool) -> Iterator[tuple[int, int]]:
    """Yield the largest token of each column if it has no embedding, and the number of rows with such tokens.

    Read from the statistics of the file, so that rows are only read where there is one.
    """
    table = pq.ParquetFile(file)
    for number in range(len(table.schema)):
        column = table.schema.column(number)
        name = column.path.split(".")[0]
        if column.max_repetition_level != 1 or not (name in IDS or (with_labels and name == "labels")):
            continue
        groups = [table.metadata.row_group(group).column(number).statistics for group in range(table.num_row_groups)]
        largest = max((one.max for one in groups if one is not None and one.has_min_max), default=-1)
        if largest >= rows:
            values = table.read([name])[name].combine_chunks()
            held = pc.list_parent_indices(values).filter(pc.greater_equal(values.flatten(), rows))
            yield int(largest), len(held.unique())


def _rows(folder: Path) -> int:
    config = folder / CONFIG
    return vocabulary_rows(json.loads(config.read_text(encoding="utf-8"))) if config.is_file() else 0
