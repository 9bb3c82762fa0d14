"""Find special tokens that are written in the rows' texts: the tokenizer reads them as such, and adds its own."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from steps.prepare_data.check.rows import Rows
from steps.prepare_data.findings import ROWS_SHOWN

CODE, TWO_ENDS = "DATA-W0830", "DATA-W0831"
ROWS_AT_ONCE = 8192
# Tokens of a model that mean something else than a text; tokens that the user added are not among them.
NAMES = ("bos_token", "eos_token", "cls_token", "sep_token", "mask_token", "pad_token", "unk_token")
TARGETS = ("labels", "tags", "data_source", "ability", "role", "more")  # columns that are no texts


def added_at(tokenizer: Any) -> tuple[list[str], list[str]]:
    """Return the special tokens that the tokenizer writes before and after a text."""
    around = list(tokenizer("")["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    start = next((n for n, (one, other) in enumerate(zip(around, whole, strict=False)) if one != other), len(around))
    names = tokenizer.convert_ids_to_tokens(around)
    return names[:start], names[start:]


def in_texts(rows: dict[str, Rows], tokenizer: Any, ends: bool, told: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield a warning for every special token in the rows' texts; those in `told` were reported before.

    `ends` if the end token is appended to texts that do not end with it, as for causal models: a text may end with it
    then, and a tokenizer that writes it too writes a second one.
    """
    rendered = _are_messages(next(iter(rows.values())))
    before, after = ([], []) if rendered else added_at(tokenizer)
    ends = ends and not rendered
    if ends and tokenizer.eos_token in after:
        what = (
            f"every text ends with two {tokenizer.eos_token}, as in TRL: one is appended, and the tokenizer writes one"
        )
        yield {"code": TWO_ENDS, "what": what, "count": sum(map(len, rows.values())), "rows": []}
    for token in dict.fromkeys([*before, *after, *(getattr(tokenizer, name) for name in NAMES)]):
        if not token or token in told:
            continue
        where = "before" if token in before else "behind" if token in after else ""
        besides = f", besides the one that it writes {where} every text" if where else ""
        may_end = token == tokenizer.eos_token and ends
        for part in rows.values():
            found = _rows_with(part, token, may_end)
            if len(found):
                what = f"texts that contain the special token {token}, which the tokenizer reads as such{besides}"
                records = [int(record) for record in part.records[found[:ROWS_SHOWN]]]
                yield {"code": CODE, "what": f"{part.source}: {what}", "count": len(found), "rows": records}


def _are_messages(rows: Rows) -> bool:
    """Return whether the rows are messages, which a chat template writes: then nothing is added around them."""
    lists = [field.name for field in rows.schema if pa.types.is_list(field.type) and field.name not in TARGETS]
    first = rows.table(0, 1)
    return any(pa.types.is_struct(first.schema.field(name).type.value_type) and first[name][0].is_valid
               for name in lists if len(first))  # fmt: skip


def _rows_with(rows: Rows, token: str, may_end: bool) -> np.ndarray:
    """Return the rows in whose texts a token is; `may_end` if a text may end with it, as none is added then."""
    pattern = re.escape(token) + (r"[\s\S]" if may_end else "")
    found = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        table = rows.table(start, start + ROWS_AT_ONCE).combine_chunks()
        held = np.zeros(len(table), bool)
        for name in table.column_names:
            if name not in TARGETS:
                _mark(table.column(name).combine_chunks(), np.arange(len(table)), pattern, held)
        found.append(start + np.flatnonzero(held))
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _mark(values: pa.Array, owners: np.ndarray, pattern: str, held: np.ndarray) -> None:
    """Mark the rows whose texts match, at any depth; `owners` holds the row of each value."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    kind = values.type
    if pa.types.is_string(kind):
        matches = pc.match_substring_regex(values, pattern).fill_null(False)
        held[owners[matches.to_numpy(zero_copy_only=False)]] = True
    elif pa.types.is_list(kind):
        lengths = pc.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False)
        _mark(values.flatten(), np.repeat(owners, lengths), pattern, held)
    elif pa.types.is_struct(kind):
        for place, field in enumerate(kind):
            if field.name not in TARGETS:
                _mark(values.field(place), owners, pattern, held)
