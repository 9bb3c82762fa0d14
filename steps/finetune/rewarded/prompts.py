"""The prompts of a training with rewards, the columns that rewards get, and the order in which prompts are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import Sampler

from steps.tasks.rules.rewarded import COLUMNS, judged_row


class Row(NamedTuple):
    """One prompt with what rewards get beside its completion."""

    prompt: list[dict[str, Any]]
    """The messages."""
    prompt_ids: list[int]
    """The rendered prompt, as prepare_data made it."""
    columns: dict[str, Any]
    """The ground truth and all other columns, by name."""


def read_prompts(data: Path, split: str) -> Any:
    """Read a split as a `datasets.Dataset`: the canonical row with its prompt_ids.

    Columns for the rewards stay inside `more`: among TRL's own columns, one such as `images` would mean something else.
    """
    import pyarrow.parquet as pq
    from datasets import Dataset
    from datasets.table import InMemoryTable

    rows, tokens = (pq.read_table(data / folder / f"{split}.parquet") for folder in ("rows", "tokens"))
    rows = rows.select(COLUMNS)
    return Dataset(InMemoryTable(rows.append_column("prompt_ids", tokens["prompt_ids"])))


def row_of(stored: dict[str, Any]) -> Row:
    """Return a row as it is trained on."""
    columns = judged_row(stored)
    return Row(columns.pop("prompt"), list(stored["prompt_ids"]), columns)


def columns_in(*splits: Any) -> list[str]:
    """Return the names of all columns for the rewards; those that a row lacks are None in it."""
    names: dict[str, None] = {}
    for rows in splits:
        for stored in rows.select_columns(list(COLUMNS)):
            names |= dict.fromkeys(judged_row(stored))
    return [name for name in names if name != "prompt"]


class PromptOrder(Sampler[int]):
    """The rows of each generation batch, in TRL's order, of any epoch.

    Each prompt comes `copies` times in a row, and each batch of `prompts` prompts `times` times. TRL's RepeatSampler
    (1.16) draws an epoch's order from a generator that has drawn those before: resumed, it would begin with the first.
    """

    def __init__(self, count: int, copies: int, prompts: int, times: int, shuffle: bool, seed: int):
        self.count, self.copies, self.prompts, self.times = count, copies, prompts, times
        self.shuffle, self.seed = shuffle, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is drawn next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count // self.prompts * self.prompts * self.copies * self.times

    def __iter__(self) -> Iterator[int]:
        order = self._order()
        for start in range(0, self.count - self.prompts + 1, self.prompts):
            batch = [row for row in order[start : start + self.prompts] for _ in range(self.copies)]
            for _ in range(self.times):
                yield from batch

    def _order(self) -> list[int]:
        if not self.shuffle:
            return list(range(self.count))
        draws = torch.Generator().manual_seed(self.seed)
        for _ in range(self.epoch):
            torch.randperm(self.count, generator=draws)
        return torch.randperm(self.count, generator=draws).tolist()
