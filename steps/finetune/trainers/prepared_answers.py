"""What TRL's trainers of preferences are spared: their tokens are there, and their reference's numbers may be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from datasets.table import InMemoryTable


class PreparedAnswers:
    """Stands before a TRL trainer among the bases.

    prepare_data made the tokens exactly as TRL does, so its own preparation is skipped. What the reference says of them
    is kept beside the checkpoints, whose folder belongs to just these weights, rows and settings: a training that goes
    on does not ask it again.
    """

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        file = Path(self.args.output_dir, f"reference-{name}.parquet")  # type: ignore[attr-defined]
        table = dataset.data.table
        if not file.is_file():
            answered = super()._precompute_ref_logps(dataset, name, batch_size)  # type: ignore[misc]
            new = [column for column in answered.column_names if column not in table.column_names]
            file.parent.mkdir(parents=True, exist_ok=True)
            unfinished = file.with_suffix(".unfinished")
            pq.write_table(pa.table({column: answered.data.table[column] for column in new}), unfinished)
            os.replace(unfinished, file)
        for column, values in zip((told := pq.read_table(file)).column_names, told.columns, strict=True):
            table = table.append_column(column, values)
        return Dataset(InMemoryTable(table))
