"""Rows for masked language models: texts; the trainer masks other tokens in each epoch.

{"text": "Once upon a time"}  →  train: input_ids [CLS, once, upon, a, time, SEP]
                              →  other splits: input_ids [CLS, once, MASK, a, time, SEP], labels [-100, -100, upon, …]

Masks of validation and test rows are drawn here, from the seed, so that every model and checkpoint is evaluated on the
same tokens. With packing, texts are concatenated, each with its special tokens, and cut into pieces of max_length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.artifacts import Draft
from steps.errors import Problem, UserError
from steps.params.settings import DataSettings
from steps.params.splits import VALIDATION_BY_ROW
from steps.prepare_data.check.checking import DataCheck
from steps.prepare_data.check.rows import Rows, read_back
from steps.prepare_data.check.splitting import SPLITS
from steps.prepare_data.write.lengths import judge_lengths
from steps.prepare_data.write.splits import SAMPLES, Preparation
from steps.prepare_data.write.templates import KEEP, load_tokenizer
from steps.prepare_data.write.tokenising import NO_LOSS
from steps.prepare_data.write.writing import FIXED, NUMBERS, SAMPLE_TOKENS, length_facts, write_rows
from steps.tasks import load_task

# Shares of the selected tokens that become the mask token or a random token; the rest stays (Devlin et al. 2018).
SHOWN_AS_MASK, SHOWN_AS_OTHER = 0.8, 0.1
FILES = {"train": 0, "validation": 1, "test": 2}  # each split has its own random numbers


@dataclass
class Masked(Preparation):
    """Settings and findings that all splits share."""

    special: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Ids of tokens that are never masked."""

    @property
    def probability(self) -> float:
        """Share of the tokens that are masked."""
        return float(self.settings.columns["mlm_probability"])


def prepare(settings: DataSettings, folder: Path) -> Masked:
    """Load the tokenizer. Raises UserError if it has no mask token, or max_seq_length leaves no tokens for text."""
    tokenizer = load_tokenizer(folder, KEEP)
    if tokenizer.mask_token is None or tokenizer.pad_token is None:
        lacks = "mask_token" if tokenizer.mask_token is None else "pad_token"
        raise UserError(
            Problem("DATA-E0815", "tokenizer", f"no {lacks}", "this token, which masked language modelling needs",
                    f"add {lacks} to tokenizer_config.json; for a decoder set pretraining_objective=causal")
        )  # fmt: skip
    taken = tokenizer.num_special_tokens_to_add(False)
    if settings.max_length <= taken:
        raise UserError(
            Problem("DATA-E0814", "max_seq_length", f"{settings.max_length}, of which special tokens take "
                    f"{taken}", "enough tokens for the text", f"raise max_seq_length above {taken}")
        )  # fmt: skip
    special = np.array(sorted(tokenizer.all_special_ids), np.int64)
    return Masked(settings, load_task(settings.task), tokenizer, special=special)


def write(draft: Draft, preparation: Masked, checked: DataCheck) -> dict[str, Any]:
    """Write every split and return the facts. Raises UserError with the problems of all splits."""
    settings = preparation.settings
    splits = {name: _write_split(draft, name, checked.rows[name], preparation) for name in SPLITS}
    preparation.refuse_if_problems(splits)
    return {
        "task": settings.task,
        "max_length": settings.max_length,
        "packing": settings.preprocessing.packing,
        "template": "",
        "mlm_probability": preparation.probability,
        "splits": splits,
        "sources": checked.sources,
        "repairs": checked.repairs,
        "warnings": checked.warnings + preparation.warnings,
        "samples": preparation.samples,
    }


def _write_split(draft: Draft, name: str, rows: Rows, preparation: Masked) -> dict[str, Any]:
    """Write rows/<name>.parquet, tokens/<name>.parquet and, if packed, VALIDATION_BY_ROW; return the facts."""
    settings = preparation.settings
    limit, packed = settings.max_length, settings.preprocessing.packing and name != "test"
    filtered = settings.preprocessing.length_handling == "filter" and not packed
    lengths = np.zeros(len(rows), np.int64)
    draws = np.random.default_rng([settings.seed, FILES[name]])
    file = draft / f"tokens/{name}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    fields = [("input_ids", NUMBERS)] + ([("labels", NUMBERS)] if name != "train" else [])
    sequences = tokens = hidden = 0
    with pq.ParquetWriter(file, pa.schema(fields), **FIXED) as writer:
        for batch in _sequences(rows, preparation, lengths, packed, filtered):
            columns: dict[str, list[Any]] = {"input_ids": batch}
            if name != "train":
                pairs = [hide(np.array(ids, np.int64), preparation, draws) for ids in batch]
                columns = {"input_ids": [ids for ids, _ in pairs], "labels": [labels for _, labels in pairs]}
                hidden += sum(int((labels != NO_LOSS).sum()) for _, labels in pairs)
            elif not preparation.samples:
                preparation.samples = [_sample(preparation, ids) for ids in batch[:SAMPLES]]
            writer.write_table(pa.table(columns, schema=writer.schema))
            sequences += len(batch)
            tokens += sum(map(len, batch))
    if packed and name == "validation":
        _write_by_row(draft / VALIDATION_BY_ROW, rows, preparation)
    left = lengths <= limit if filtered else np.ones(len(rows), bool)
    write_rows(draft / f"rows/{name}.parquet", rows.take(np.flatnonzero(left)))
    if not packed:
        fix = "raise max_seq_length, or set packing=true, which cuts texts into pieces without loss"
        hint = "; packing=true would cut them into pieces without loss"
        judge_lengths(name, rows, lengths, preparation, fix, hint)
    return {
        "source": rows.source,
        "rows": int(left.sum()),
        "sequences": sequences,
        "tokens": tokens,
        "supervised_tokens": hidden if name != "train" else round(tokens * preparation.probability),
        "fill": round(tokens / (sequences * limit), 4) if packed and sequences else None,
        **length_facts(lengths),
        "truncated": 0 if packed else int(((lengths > limit) & left).sum()),
        "left_out": int((~left).sum()),
    }


def _write_by_row(file: Path, rows: Rows, preparation: Masked) -> None:
    """Write the tokens of the validation rows, which are packed for the training, as those of test rows."""
    draws = np.random.default_rng([preparation.settings.seed, FILES["validation"]])
    schema = pa.schema([("input_ids", NUMBERS), ("labels", NUMBERS)])
    with pq.ParquetWriter(file, schema, **FIXED) as writer:
        for batch in _sequences(rows, preparation, np.zeros(len(rows), np.int64), packed=False, filtered=False):
            pairs = [hide(np.array(ids, np.int64), preparation, draws) for ids in batch]
            columns = {"input_ids": [ids for ids, _ in pairs], "labels": [labels for _, labels in pairs]}
            writer.write_table(pa.table(columns, schema=schema))


def _sequences(
    rows: Rows, preparation: Masked, lengths: np.ndarray, packed: bool, filtered: bool
) -> Iterator[list[list[int]]]:
    """Yield the token rows of a split in batches; store the length of each text before truncation in `lengths`."""
    limit, size = preparation.settings.max_length, preparation.settings.preprocessing.batch_size
    waiting: list[int] = []
    for start in range(0, len(rows), size):
        texts = [row["text"] for row in read_back(rows.table(start, start + size))]
        encoded = _encode(preparation, texts)
        lengths[start : start + len(texts)] = [len(ids) for ids in encoded]
        if packed:
            for ids in encoded:
                waiting += ids
            whole = len(waiting) // limit * limit
            yield [waiting[place : place + limit] for place in range(0, whole, limit)]
            waiting = waiting[whole:]
            continue
        long = [row for row, ids in enumerate(encoded) if len(ids) > limit]
        if long and not filtered:
            cut = _encode(preparation, [texts[row] for row in long], truncation=True, max_length=limit)
            for row, ids in zip(long, cut, strict=True):
                encoded[row] = ids
        yield [ids for ids in encoded if len(ids) <= limit]
    if waiting:
        yield [waiting]


def _encode(preparation: Masked, texts: list[str], **how: Any) -> list[list[int]]:
    encoded = preparation.tokenizer(
        texts, return_attention_mask=False, return_token_type_ids=False, verbose=False, **how
    )
    return list(encoded["input_ids"])


def hide(ids: np.ndarray, preparation: Masked, draws: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mask some tokens of a row; return the ids that the model reads, and the labels (NO_LOSS for other tokens)."""
    allowed = ~np.isin(ids, preparation.special)
    hidden = allowed & (draws.random(len(ids)) < preparation.probability)
    if not hidden.any() and allowed.any():  # otherwise a short text may have no masked token
        hidden[draws.choice(np.flatnonzero(allowed))] = True
    labels = np.where(hidden, ids, NO_LOSS)
    shown = draws.random(len(ids))
    others = draws.integers(len(preparation.tokenizer), size=len(ids))
    read = np.where(hidden & (shown < SHOWN_AS_MASK), preparation.tokenizer.mask_token_id, ids)
    swapped = hidden & (shown >= SHOWN_AS_MASK) & (shown < SHOWN_AS_MASK + SHOWN_AS_OTHER)
    return np.where(swapped, others, read), labels


def _sample(preparation: Masked, ids: list[int]) -> dict[str, Any]:
    text = preparation.tokenizer.decode(ids[:SAMPLE_TOKENS])
    return {"split": "train", "tokens": [{"text": text, "supervised": True}]}
