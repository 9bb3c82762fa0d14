"""How many rows are learned from and how many are held out, where no rows are given for one or both of the others."""

from collections.abc import Collection

SPLITS = ("train", "validation", "test")

# Percent of the training rows that stay in train, and where test begins, by what else is given.
EDGES = {
    frozenset[str](): (80, 90),
    frozenset({"test"}): (80, 100),
    frozenset({"validation"}): (80, 80),
    frozenset({"validation", "test"}): (100, 100),
}


def split_sizes(rows: int, given: Collection[str]) -> dict[str, int]:
    """Give the number of rows of train and of each split that is not given, of so many training rows.

    80/10/10, or 80/20 when one of the two others is given; all rows are for training when both are. Sizes are rounded
    to the nearest row, and no missing split is left empty as long as there are rows for all.
    """
    first, second = (round(edge * rows / 100) for edge in EDGES[frozenset(given)])
    drawn = {"validation": second - first, "test": rows - second}
    held_out = {split: max(1, drawn[split]) for split in SPLITS[1:] if split not in given}
    return {"train": max(0, rows - sum(held_out.values())), **held_out}


def train_percent(given: Collection[str]) -> int:
    """Give the percentage of the training rows that is learned from."""
    return EDGES[frozenset(given)][0]
