"""Which rows are computed together."""

from __future__ import annotations

from collections.abc import Sequence


def batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group row numbers, longest first, so that rows × longest row of a group is at most `budget` tokens.

    Rows of like length stand together, so little is padded; the group that needs most memory comes first, so a batch
    size that does not fit fails at once. A row longer than the budget is a group of its own.
    """
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= budget:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
