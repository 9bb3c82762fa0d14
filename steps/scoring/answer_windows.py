"""Convert the logits of all windows of a split to one answer for each question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from steps.scoring.answer_spans import Answer, Window, postprocess


def answers_of(
    rows: pa.Table, windows: pa.Table, starts: Sequence[np.ndarray], ends: Sequence[np.ndarray], columns: dict[str, Any]
) -> list[Answer]:
    """Select an answer for every row.

    `windows` are those written by prepare_data; `starts` and `ends` have a logit for each token of each window, then
    padding; `columns` are the task's parameters. Raises NumericError for logits that are not finite.
    """
    contexts = rows["context"].to_pylist()
    of_row: list[list[Window]] = [[] for _ in contexts]
    parts = (windows[name].to_pylist() for name in ("row", "first", "end"))
    for place, (row, firsts, lasts) in enumerate(zip(*parts, strict=True)):
        offsets = [None if first < 0 else (first, last) for first, last in zip(firsts, lasts, strict=True)]
        of_row[row].append(Window(starts[place][: len(offsets)], ends[place][: len(offsets)], offsets))
    return [
        postprocess(
            context,
            some,
            n_best_size=columns.get("n_best_size", 20),
            max_answer_length_in_tokens=columns.get("max_answer_length_in_tokens", 30),
            may_have_no_answer=columns.get("allow_no_answer", True),
            null_score_threshold=columns.get("null_score_diff_threshold", 0.0),
        )
        for context, some in zip(contexts, of_row, strict=True)
    ]


def references_of(rows: pa.Table) -> list[list[str]]:
    """Return the right answers of every row; an empty list for a question without an answer."""
    return [[answer["text"] for answer in answers] for answers in rows["answers"].to_pylist()]
