"""Group rows into batches."""

from __future__ import annotations

from collections.abc import Sequence


def batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group row numbers, longest first, so that rows × longest row of a group is at most `budget` tokens.

    Rows of similar length are in the same group, which limits padding; the group that needs most memory is first, so
    that a batch size that does not fit fails immediately. A row longer than the budget is its own group.
    """
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= budget:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
