"""Sizes of training and held-out splits, if validation or test rows are split off the training rows."""

from collections.abc import Collection

SPLITS = ("train", "validation", "test")
# Tokens of the validation rows as those of test rows, one for each row of rows/validation.parquet: written by
# prepare_data if tokens/validation.parquet, which training reads, is packed or has pairs split into rated answers.
VALIDATION_BY_ROW = "tokens/validation_by_row.parquet"

# By the splits that are given: the end of train and the start of test, in percent of the training rows.
EDGES = {
    frozenset[str](): (80, 90),
    frozenset({"test"}): (80, 100),
    frozenset({"validation"}): (80, 80),
    frozenset({"validation", "test"}): (100, 100),
}


def split_sizes(rows: int, given: Collection[str]) -> dict[str, int]:
    """Return the number of rows of train and of each split that is not given, for `rows` training rows.

    80/10/10, or 80/20 if one of validation and test is given; all rows are for training if both are. Sizes are rounded
    to the nearest row, and no missing split is empty if there are enough rows.
    """
    first, second = (round(edge * rows / 100) for edge in EDGES[frozenset(given)])
    drawn = {"validation": second - first, "test": rows - second}
    held_out = {split: max(1, drawn[split]) for split in SPLITS[1:] if split not in given}
    return {"train": max(0, rows - sum(held_out.values())), **held_out}


def train_percent(given: Collection[str]) -> int:
    """Return the percentage of the given training rows that stay in train."""
    return EDGES[frozenset(given)][0]
