"""Group rows into batches."""

from __future__ import annotations

from collections.abc import Sequence


def batches(lengths: Sequence[int], budget: int, rows: int | None = None) -> list[list[int]]:
    """Group row numbers, longest first, so that rows × longest row of a group is at most `budget` tokens.

    Rows of similar length are in the same group, which limits padding; the group that needs most memory is first, so
    that a batch size that does not fit fails immediately. A row longer than the budget is its own group; `rows` is the
    largest number of rows of a group.
    """
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        last = groups[-1] if groups else []
        if last and (len(last) + 1) * lengths[last[0]] <= budget and (rows is None or len(last) < rows):
            last.append(row)
        else:
            groups.append([row])
    return groups
