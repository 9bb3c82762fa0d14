"""Write token rows of prompts and answers: pairs, rated answers, or pairs split into rated answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.prepare_data.write.writing import FIXED, NUMBERS, ROW_GROUP

PAIR, RATED = ("chosen", "rejected"), ("completion",)


class TokenTables:
    """Writes and counts token rows."""

    def __init__(self, file: Path, answers: tuple[str, ...]):
        """`answers` are the answers of a written row: with RATED, added pairs are split into two rows."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self.answers = answers
        fields = [(f"{key}_ids", NUMBERS) for key in ("prompt", *answers)]
        self.schema = pa.schema(fields + ([("label", pa.bool_())] if answers == RATED else []))
        self._writer = pq.ParquetWriter(file, self.schema, **FIXED)
        self._apart: list[pa.Table] = []
        self.sequences = self.tokens = self.supervised = 0

    def add(self, columns: dict[str, list[Any]]) -> None:
        """Add rows, given by column: prompt, the answers, label."""
        if self.answers == RATED and "chosen" in columns:
            good, bad = columns["chosen"], columns["rejected"]
            columns = {
                "prompt": columns["prompt"] * 2,
                "completion": good + bad,
                "label": [True] * len(good) + [False] * len(bad),
            }
            self._apart.append(self._table(columns))
        else:
            self._writer.write_table(self._table(columns))
        learned = sum(len(ids) for key in self.answers for ids in columns[key])
        self.sequences += len(columns["prompt"])
        self.supervised += learned
        self.tokens += learned + len(self.answers) * sum(map(len, columns["prompt"]))

    def close(self, seed: int | None) -> None:
        """Close the file; rows of split pairs are written in an order drawn from the seed."""
        if self._apart:
            rows = pa.concat_tables(self._apart)
            order = np.random.default_rng(seed).permutation(len(rows))
            self._writer.write_table(rows.take(pa.array(order)).combine_chunks(), ROW_GROUP)
        self._writer.close()

    def _table(self, columns: dict[str, list[Any]]) -> pa.Table:
        arrays = [pa.array(columns[field.name.removesuffix("_ids")], field.type) for field in self.schema]
        return pa.Table.from_arrays(arrays, schema=self.schema)
