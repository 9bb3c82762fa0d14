"""Problems and warnings for rows that are longer than max_seq_length."""

from __future__ import annotations

import numpy as np

from steps.errors import Problem
from steps.prepare_data.check.rows import Rows
from steps.prepare_data.write.splits import Preparation

FIX = "raise max_seq_length, or set length_handling=truncate"


def judge_lengths(
    name: str, rows: Rows, lengths: np.ndarray, preparation: Preparation, fix: str = FIX, hint: str = ""
) -> None:
    """Refuse a split without remaining rows; warn if some rows are too long. `hint` is appended to the warning."""
    limit = preparation.settings.max_length
    if not len(long := np.flatnonzero(lengths > limit)):
        return
    filtered = preparation.settings.preprocessing.length_handling == "filter"
    if filtered and len(long) == len(rows):
        preparation.problems.append(
            Problem("DATA-E0804", rows.where(0), f"every row of {name} longer than {limit} tokens "
                    f"(the shortest has {lengths.min()})", f"rows of at most {limit} tokens", fix)
        )  # fmt: skip
        return
    done = "left out" if filtered else "truncated"
    what = f"rows of {name} longer than {limit} tokens were {done} ({len(long) / len(rows):.1%}){hint}"
    preparation.warn("DATA-W0804", f"{rows.source}: {what}", [int(rows.records[row]) for row in long], len(long))
