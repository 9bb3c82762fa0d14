"""Rows for token classification: the first token of a word has the word's tag as label, the others have no loss.

{"tokens": ["Ada", "Lovelace"], "tags": ["B-PER", "I-PER"]}
    →  input_ids [CLS, Ada, Love, ##lace, SEP], labels [-100, 1, 2, -100, -100], words [0, 1]

`words` are the numbers of the words with a label, in order; truncated words and words for which the tokenizer gives no
token have none. A tag's number is its index in the facts' class_names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.artifacts import Draft
from steps.errors import Problem, UserError
from steps.models.word_tokenizer import load_word_tokenizer
from steps.params.settings import DataSettings
from steps.prepare_data.check.checking import DataCheck
from steps.prepare_data.check.rows import Rows, read_back
from steps.prepare_data.check.splitting import SPLITS
from steps.prepare_data.write.lengths import judge_lengths
from steps.prepare_data.write.splits import SAMPLES, Preparation
from steps.prepare_data.write.tokenising import NO_LOSS
from steps.prepare_data.write.writing import FIXED, NUMBERS, ROW_GROUP, SAMPLE_TOKENS, length_facts, write_rows
from steps.tasks import load_task

SCHEMA = pa.schema([("input_ids", NUMBERS), ("labels", NUMBERS), ("words", NUMBERS)])


@dataclass
class Tagged(Preparation):
    """Settings and findings that all splits share."""

    names: list[str] = field(default_factory=list)
    """The tags; a tag's index is its number."""


@dataclass
class Encoded:
    """The tokens of some sentences."""

    input_ids: list[list[int]]
    labels: list[list[int]]
    words: list[list[int]]
    lengths: list[int]
    """Numbers of tokens before truncation."""


def prepare(settings: DataSettings, folder: Path) -> Tagged:
    """Load the tokenizer. Raises UserError if it is unusable, or max_seq_length leaves no tokens for words."""
    tokenizer = load_word_tokenizer(folder)
    if tokenizer.pad_token is None:
        raise UserError(
            Problem("DATA-E0813", "tokenizer", "neither a padding nor an end-of-text token", "one of them, to pad "
                    "the rows of a batch", "add pad_token to the model's tokenizer_config.json")
        )  # fmt: skip
    taken = tokenizer.num_special_tokens_to_add(False)
    if settings.max_length <= taken:
        raise UserError(
            Problem("DATA-E0814", "max_seq_length", f"{settings.max_length}, of which special tokens take "
                    f"{taken}", "enough tokens for words", f"raise max_seq_length above {taken}")
        )  # fmt: skip
    return Tagged(settings, load_task(settings.task), tokenizer)


def write(draft: Draft, preparation: Tagged, checked: DataCheck) -> dict[str, Any]:
    """Write every split and return the facts. Raises UserError with the problems of all splits."""
    settings = preparation.settings
    preparation.names = _tag_names(preparation, checked)
    splits = {name: _write_split(draft, name, checked.rows[name], preparation) for name in SPLITS}
    preparation.refuse_if_problems(splits)
    return {
        "task": settings.task,
        "max_length": settings.max_length,
        "packing": False,
        "template": "",
        "class_names": preparation.names,
        "splits": splits,
        "sources": checked.sources,
        "repairs": checked.repairs,
        "warnings": checked.warnings + preparation.warnings,
        "samples": preparation.samples,
    }


def _tag_names(preparation: Tagged, checked: DataCheck) -> list[str]:
    """Return the task's tag list for all rows, which are read in groups."""
    seen: dict[str, None] = {}
    for rows in checked.rows.values():
        for start in range(0, len(rows), ROW_GROUP):
            tags = rows.table(start, start + ROW_GROUP)["tags"]
            seen |= dict.fromkeys(tag for row in tags.to_pylist() for tag in row)
    table = pa.table({"tags": pa.array([list(seen)], pa.list_(pa.string()))})
    return preparation.task.label_names(table, preparation.task.Columns(**preparation.settings.columns))


def _write_split(draft: Draft, name: str, rows: Rows, preparation: Tagged) -> dict[str, Any]:
    """Write rows/<name>.parquet and tokens/<name>.parquet; return the facts of the split."""
    settings = preparation.settings
    limit, filtered = settings.max_length, settings.preprocessing.length_handling == "filter"
    counts = np.zeros(len(preparation.names), np.int64)
    lengths, kept = np.zeros(len(rows), np.int64), np.ones(len(rows), bool)
    tokens = given = learned = 0
    file = draft / f"tokens/{name}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(file, SCHEMA, **FIXED) as writer:
        for start in range(0, len(rows), settings.preprocessing.batch_size):
            batch = read_back(rows.table(start, start + settings.preprocessing.batch_size))
            encoded = _encode(preparation, batch)
            span = slice(start, start + len(batch))
            lengths[span] = encoded.lengths
            kept[span] = (lengths[span] <= limit) | (not filtered)
            stay = np.flatnonzero(kept[span])
            columns = {key: [getattr(encoded, key)[row] for row in stay] for key in SCHEMA.names}
            writer.write_table(pa.table(columns, schema=SCHEMA))
            labels = [label for row in columns["labels"] for label in row if label != NO_LOSS]
            counts += np.bincount(labels, minlength=len(counts))
            tokens += sum(map(len, columns["input_ids"]))
            given += sum(len(batch[row]["tokens"]) for row in stay)
            learned += len(labels)
            if name == "train" and start == 0:
                preparation.samples = [_sample(batch[row]) for row in stay[:SAMPLES]]
    write_rows(draft / f"rows/{name}.parquet", rows.take(np.flatnonzero(kept)))
    judge_lengths(name, rows, lengths, preparation)
    if given > learned:
        preparation.warn("DATA-W0805", f"{rows.source}: words of {name} without a label: they were truncated, or the "
                         "tokenizer gives no token for them", count=given - learned)  # fmt: skip
    return {
        "source": rows.source,
        "rows": int(kept.sum()),
        "sequences": int(kept.sum()),
        "tokens": tokens,
        "supervised_tokens": learned,
        "fill": None,
        **length_facts(lengths),
        "truncated": int(((lengths > limit) & kept).sum()),
        "left_out": int((~kept).sum()),
        "words": given,
        "words_without_label": given - learned,
        "classes": {tag: int(count) for tag, count in zip(preparation.names, counts, strict=True)},
    }


def _encode(preparation: Tagged, batch: list[dict[str, Any]]) -> Encoded:
    place = {tag: number for number, tag in enumerate(preparation.names)}
    limit = preparation.settings.max_length
    words = [row["tokens"] for row in batch]
    how = {"is_split_into_words": True, "return_attention_mask": False, "return_token_type_ids": False}
    whole = preparation.tokenizer(words, verbose=False, **how)
    lengths = [len(ids) for ids in whole["input_ids"]]
    cut = whole
    if max(lengths) > limit:
        cut = preparation.tokenizer(words, truncation=True, max_length=limit, verbose=False, **how)
    encoded = Encoded(list(cut["input_ids"]), [], [], lengths)
    for number, row in enumerate(batch):
        labels, learned, before = [], [], None
        for word in cut.word_ids(number):
            first = word is not None and word != before
            labels.append(place[row["tags"][word]] if first else NO_LOSS)
            if first:
                learned.append(word)
            before = word
        encoded.labels.append(labels)
        encoded.words.append(learned)
    return encoded


def _sample(row: dict[str, Any]) -> dict[str, Any]:
    """Return one training row for the report: each word with its tag."""
    pairs = list(zip(row["tokens"], row["tags"], strict=True))[:SAMPLE_TOKENS]
    shown = [
        ({"text": f"{word} ", "supervised": False}, {"text": f"{tag}  ", "supervised": True}) for word, tag in pairs
    ]
    return {"split": "train", "tokens": [piece for both in shown for piece in both]}
