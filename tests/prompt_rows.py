"""Data artifacts of prompts, in the canonical form of the task prompts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steps.artifacts import new_artifact
from steps.tasks.rules.messages import MESSAGES

SCHEMA = pa.schema(
    [
        pa.field("prompt", MESSAGES),
        pa.field("text", pa.string()),
        pa.field("tools", pa.string()),
        pa.field("reference", pa.string()),
        pa.field("id", pa.string()),
        pa.field("more", pa.string()),
    ]
)
GROUP = 1000  # rows, as prepare_data writes them


def text_row(number: int, **changes: Any) -> dict[str, Any]:
    """Return a plain prompt."""
    return {"text": f"What comes after {number}?", "reference": str(number + 1), **changes}


def talk_row(number: int, **changes: Any) -> dict[str, Any]:
    """Return a conversation."""
    said = {"role": "user", "content": f"What comes after {number}?", "more": None}
    return {"prompt": [said], "reference": str(number + 1), **changes}


def write_prompts(target: Path, rows: Iterable[dict[str, Any]], **facts: Any) -> Path:
    """Write a data artifact with these rows as its test split; `more` may be a dict."""
    with new_artifact(target, "data") as draft:
        (draft / "rows").mkdir()
        draft.facts = {"splits": {"test": {"source": "s3://bucket/sums.v2.jsonl"}}, **facts}
        with pq.ParquetWriter(draft / "rows/test.parquet", SCHEMA) as writer:
            left = iter(rows)
            while group := list(islice(left, GROUP)):
                for row in group:
                    if isinstance(row.get("more"), dict):
                        row["more"] = json.dumps(row["more"])
                writer.write_table(pa.Table.from_pylist(group, SCHEMA))
    return target


def answers_in(generations: Path) -> list[dict[str, Any]]:
    """Return all lines of the shards, in their order."""
    return [line for file in sorted(generations.glob("*.parquet")) for line in pq.read_table(file).to_pylist()]
