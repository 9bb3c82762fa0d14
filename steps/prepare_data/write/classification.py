"""Rows for sequence classification: texts, or pairs of texts, with class numbers.

{"sentence1": "Great value.", "sentence2": None, "labels": ["good"]}  →  input_ids [101, 2307, …], labels 1

With multilabel=true, `labels` is a list with 1.0 for each class that applies, else 0.0. The classes are the sorted
labels of all splits, unless the parameter `labels` lists them; the facts hold the list (class_names).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.artifacts import Draft
from steps.errors import Problem, UserError
from steps.models.layout import CONFIG
from steps.params.settings import DataSettings
from steps.prepare_data.check.checking import DataCheck
from steps.prepare_data.check.rows import Rows, read_back
from steps.prepare_data.check.splitting import SPLITS
from steps.prepare_data.write.lengths import judge_lengths
from steps.prepare_data.write.splits import SAMPLES, Preparation
from steps.prepare_data.write.templates import KEEP, load_tokenizer
from steps.prepare_data.write.writing import FIXED, NUMBERS, ROW_GROUP, SAMPLE_TOKENS, length_facts, write_rows
from steps.tasks import load_task, reads_pairs

Encoded = dict[str, list[list[int]]]


@dataclass
class Classification(Preparation):
    """Settings and findings that all splits share."""

    with_types: bool = False
    """Whether the model distinguishes the two texts of a pair by token_type_ids."""
    names: list[str] = field(default_factory=list)
    """The classes; a label's index is its class number."""

    @property
    def multilabel(self) -> bool:
        """Return whether a row may have any number of classes."""
        return bool(self.settings.columns.get("multilabel", False))


def prepare(settings: DataSettings, folder: Path) -> Classification:
    """Load the tokenizer. Raises UserError if it has no padding token, or max_seq_length leaves no tokens for text."""
    tokenizer = load_tokenizer(folder, KEEP)
    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise UserError(
            Problem("DATA-E0813", "tokenizer", "neither a padding nor an end-of-text token", "one of them, to pad "
                    "the rows of a batch", "add pad_token to the model's tokenizer_config.json")
        )  # fmt: skip
    pairs = reads_pairs(settings.task, settings.columns)
    taken = tokenizer.num_special_tokens_to_add(pairs)
    if settings.max_length <= taken + pairs:
        raise UserError(
            Problem("DATA-E0814", "max_seq_length", f"{settings.max_length}, of which special tokens take "
                    f"{taken}", "enough tokens for the text", f"raise max_seq_length above {taken + pairs}")
        )  # fmt: skip
    types = "token_type_ids" in tokenizer.model_input_names and has_types(folder)
    return Classification(settings, load_task(settings.task), tokenizer, with_types=types)


def write(draft: Draft, preparation: Classification, checked: DataCheck) -> dict[str, Any]:
    """Write every split and return the facts. Raises UserError with the problems of all splits."""
    settings = preparation.settings
    preparation.names = _class_names(preparation, checked)
    splits = {name: _write_split(draft, name, checked.rows[name], preparation) for name in SPLITS}
    preparation.refuse_if_problems(splits)
    return {
        "task": settings.task,
        "max_length": settings.max_length,
        "packing": False,
        "template": "",
        "class_names": preparation.names,
        "multilabel": preparation.multilabel,
        "splits": splits,
        "sources": checked.sources,
        "repairs": checked.repairs,
        "warnings": checked.warnings + preparation.warnings,
        "samples": preparation.samples,
    }


def has_types(folder: Path) -> bool:
    """Return whether the model has several token types; true for a folder without configuration."""
    file = folder / CONFIG
    return not file.is_file() or json.loads(file.read_text(encoding="utf-8")).get("type_vocab_size", 0) > 1


def _class_names(preparation: Classification, checked: DataCheck) -> list[str]:
    """Return the task's class list for all rows, which are read in groups."""
    seen: dict[str, None] = {}
    for rows in checked.rows.values():
        for start in range(0, len(rows), ROW_GROUP):
            labels = rows.table(start, start + ROW_GROUP)["labels"]
            seen |= dict.fromkeys(label for row in labels.to_pylist() for label in row)
    table = pa.table({"labels": pa.array([list(seen)], pa.list_(pa.string()))})
    return preparation.task.label_names(table, preparation.task.Columns(**preparation.settings.columns))


def _write_split(draft: Draft, name: str, rows: Rows, preparation: Classification) -> dict[str, Any]:
    """Write rows/<name>.parquet and tokens/<name>.parquet; return the facts of the split."""
    settings = preparation.settings
    limit, filtered = settings.max_length, settings.preprocessing.length_handling == "filter"
    place = {label: number for number, label in enumerate(preparation.names)}
    counts = np.zeros(len(place), np.int64)
    lengths, tokens = np.zeros(len(rows), np.int64), 0
    schema = _schema(preparation)
    file = draft / f"tokens/{name}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(file, schema, **FIXED) as writer:
        for start in range(0, len(rows), settings.preprocessing.batch_size):
            span = slice(start, start + settings.preprocessing.batch_size)
            batch = read_back(rows.table(span.start, span.stop))
            encoded, lengths[span] = _encode(preparation, batch)
            kept = [row for row in range(len(batch)) if not filtered or lengths[start + row] <= limit]
            labels = [[place[label] for label in batch[row]["labels"]] for row in kept]
            columns = {key: [values[row] for row in kept] for key, values in encoded.items()}
            columns["labels"] = _numbers(labels, preparation)
            writer.write_table(pa.table(columns, schema=schema))
            counts += np.bincount([number for row in labels for number in row], minlength=len(place))
            tokens += sum(map(len, columns["input_ids"]))
            if name == "train" and start == 0:
                preparation.samples = [_sample(preparation, columns["input_ids"][row], batch[kept[row]])
                                       for row in range(min(SAMPLES, len(kept)))]  # fmt: skip
    left = lengths <= limit if filtered else np.ones(len(rows), bool)
    write_rows(draft / f"rows/{name}.parquet", rows.take(np.flatnonzero(left)))
    judge_lengths(name, rows, lengths, preparation)
    return {
        "source": rows.source,
        "rows": int(left.sum()),
        "sequences": int(left.sum()),
        "tokens": tokens,
        "supervised_tokens": None,
        "fill": None,
        **length_facts(lengths),
        "truncated": int(((lengths > limit) & left).sum()),
        "left_out": int((~left).sum()),
        "classes": {label: int(count) for label, count in zip(preparation.names, counts, strict=True)},
    }


def _schema(preparation: Classification) -> pa.Schema:
    names = ["input_ids", "token_type_ids"] if preparation.with_types else ["input_ids"]
    label = pa.list_(pa.float32()) if preparation.multilabel else pa.int64()
    return pa.schema([*((name, NUMBERS) for name in names), ("labels", label)])


def _encode(preparation: Classification, batch: list[dict[str, Any]]) -> tuple[Encoded, np.ndarray]:
    """Encode texts or pairs, truncated to max_length; also return their lengths before truncation.

    Of a pair, the longer text is truncated first.
    """
    limit = preparation.settings.max_length
    encoded = _called(preparation, batch)
    lengths = np.fromiter(map(len, encoded["input_ids"]), np.int64, len(batch))
    if len(long := np.flatnonzero(lengths > limit).tolist()):
        cut = _called(preparation, [batch[row] for row in long], truncation=True, max_length=limit)
        for key, values in cut.items():
            for row, value in zip(long, values, strict=True):
                encoded[key][row] = value
    return encoded, lengths


def _called(preparation: Classification, batch: list[dict[str, Any]], **how: Any) -> Encoded:
    pairs = batch[0]["sentence2"] is not None
    encoded = preparation.tokenizer(
        [row["sentence1"] for row in batch],
        [row["sentence2"] for row in batch] if pairs else None,
        return_attention_mask=False,
        return_token_type_ids=preparation.with_types,
        verbose=False,
        **how,
    )
    return dict(encoded)


def _numbers(labels: Sequence[list[int]], preparation: Classification) -> list[Any]:
    if not preparation.multilabel:
        return [row[0] for row in labels]
    table = np.zeros((len(labels), len(preparation.names)), np.float32)
    for row, numbers in enumerate(labels):
        table[row, numbers] = 1
    return list(table)


def _sample(preparation: Classification, ids: list[int], row: dict[str, Any]) -> dict[str, Any]:
    """Return one training row as the model reads it, with its label, for the report."""
    text = preparation.tokenizer.decode(ids[:SAMPLE_TOKENS])
    label = f"  → {', '.join(row['labels']) or 'no class'}"
    return {"split": "train", "tokens": [{"text": text, "supervised": False}, {"text": label, "supervised": True}]}
