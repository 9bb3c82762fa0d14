"""The inputs of one training, passed to every trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steps.params.settings import FinetuneSettings


@dataclass(frozen=True)
class Run:
    """Inputs, the folder for checkpoints, and callbacks."""

    settings: FinetuneSettings
    model: Path
    data: Path
    checkpoints: Path
    callbacks: list[Any] = field(default_factory=list)
    shared: Path | None = None
    """Folder for files that trainings of the same model and rows share; None: `checkpoints`."""

    def tokens(self, split: str) -> Any:
        """Read the token rows of a split as a `datasets.Dataset` with input_ids, labels and, packed, seq_lengths."""
        import pyarrow.parquet as pq
        from datasets import Dataset
        from datasets.table import InMemoryTable

        return Dataset(InMemoryTable(pq.read_table(self.data / "tokens" / f"{split}.parquet")))
