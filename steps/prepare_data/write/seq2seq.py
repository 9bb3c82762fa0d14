"""Rows for encoder-decoder models: texts for the encoder, answers as labels of the decoder.

{"source": "cat", "target": "Katze"}  →  input_ids [translate, …, :, cat, </s>], labels [Kat, ze, </s>]

Text and answer have separate limits, max_seq_length and max_target_length. A longer text or answer is truncated at its
end, but keeps the special tokens around it; so the prompt prefix stays, and every answer has an end token.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.artifacts import Draft
from steps.errors import Problem, UserError
from steps.models.seq2seq import Languages, find_languages, load_tokenizer, opening_of
from steps.params.settings import DataSettings
from steps.prepare_data.check.checking import DataCheck
from steps.prepare_data.check.rows import Rows, read_back
from steps.prepare_data.check.splitting import SPLITS
from steps.prepare_data.write.lengths import judge_lengths
from steps.prepare_data.write.splits import SAMPLES, Preparation
from steps.prepare_data.write.writing import FIXED, NUMBERS, SAMPLE_TOKENS, length_facts, write_rows
from steps.tasks import load_task

SCHEMA = pa.schema([("input_ids", NUMBERS), ("labels", NUMBERS)])


@dataclass
class Written(Preparation):
    """Settings that all splits share."""

    languages: Languages | None = None


@dataclass
class Encoded:
    """The truncated tokens of some rows, and their numbers of tokens before truncation."""

    input_ids: list[list[int]]
    labels: list[list[int]]
    lengths: list[int]
    target_lengths: list[int]


def prepare(settings: DataSettings, folder: Path) -> Written:
    """Load the tokenizer. Raises UserError if it lacks a language, or a limit leaves no tokens for text."""
    task = load_task(settings.task)
    columns = task.Columns(**settings.columns)
    languages = find_languages(load_tokenizer(folder), *_wanted(columns))
    tokenizer = load_tokenizer(folder, languages)
    tokenizer.truncation_side = "right"
    limits = {"max_seq_length": settings.max_length, "max_target_length": settings.max_target_length}
    around = {
        "max_seq_length": len(tokenizer("".join(task.prompt_form(columns)))["input_ids"]),
        "max_target_length": len(tokenizer(text_target="")["input_ids"]),
    }
    problems = [
        Problem("DATA-E0814", name, f"{limits[name]}, of which prefix and special tokens take {taken}",
                "enough tokens for the text", f"raise {name} above {taken}")
        for name, taken in around.items() if limits[name] <= taken
    ]  # fmt: skip
    if problems:
        raise UserError(problems)
    return Written(settings, task, tokenizer, languages=languages)


def write(draft: Draft, preparation: Written, checked: DataCheck) -> dict[str, Any]:
    """Write every split and return the facts. Raises UserError with the problems of all splits."""
    settings = preparation.settings
    splits = {name: _write_split(draft, name, checked.rows[name], preparation) for name in SPLITS}
    preparation.refuse_if_problems(splits)
    return {
        "task": settings.task,
        "max_length": settings.max_length,
        "max_target_length": settings.max_target_length,
        "packing": False,
        "template": "",
        "languages": asdict(preparation.languages) if preparation.languages else {},
        "opening": opening_of(preparation.tokenizer, preparation.languages),
        "splits": splits,
        "sources": checked.sources,
        "repairs": checked.repairs,
        "warnings": checked.warnings + preparation.warnings,
        "samples": preparation.samples,
    }


def _wanted(columns: Any) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return source and target language of the task, each with its parameter; a summary has the text's language."""
    names = ("source_lang", "target_lang") if hasattr(columns, "source_lang") else ("summarization_lang",) * 2
    return (names[0], getattr(columns, names[0])), (names[1], getattr(columns, names[1]))


def _write_split(draft: Draft, name: str, rows: Rows, preparation: Written) -> dict[str, Any]:
    """Write rows/<name>.parquet and tokens/<name>.parquet; return the facts of the split."""
    settings = preparation.settings
    limit, longest = settings.max_length, settings.max_target_length
    filtered = settings.preprocessing.length_handling == "filter"
    lengths, targets = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    kept = np.ones(len(rows), bool)
    tokens = learned = 0
    file = draft / f"tokens/{name}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(file, SCHEMA, **FIXED) as writer:
        for start in range(0, len(rows), settings.preprocessing.batch_size):
            batch = read_back(rows.table(start, start + settings.preprocessing.batch_size))
            encoded = _encode(preparation, batch)
            span = slice(start, start + len(batch))
            lengths[span], targets[span] = encoded.lengths, encoded.target_lengths
            kept[span] = ((lengths[span] <= limit) & (targets[span] <= longest)) | (not filtered)
            stay = np.flatnonzero(kept[span])
            columns = {key: [getattr(encoded, key)[row] for row in stay] for key in SCHEMA.names}
            writer.write_table(pa.table(columns, schema=SCHEMA))
            tokens += sum(map(len, columns["input_ids"]))
            learned += sum(map(len, columns["labels"]))
            if name == "train" and start == 0:
                shown = list(zip(columns["input_ids"], columns["labels"], strict=True))[:SAMPLES]
                preparation.samples = [_sample(preparation.tokenizer, *row) for row in shown]
    write_rows(draft / f"rows/{name}.parquet", rows.take(np.flatnonzero(kept)))
    judge_lengths(name, rows, lengths, preparation)
    _judge_targets(name, rows, targets, kept, preparation)
    return {
        "source": rows.source,
        "rows": int(kept.sum()),
        "sequences": int(kept.sum()),
        "tokens": tokens + learned,
        "supervised_tokens": learned,
        "fill": None,
        **length_facts(lengths),
        "target_length": length_facts(targets)["length"],
        "truncated": int(((lengths > limit) & kept).sum()),
        "targets_truncated": int(((targets > longest) & kept).sum()),
        "left_out": int((~kept).sum()),
    }


def _encode(preparation: Written, batch: list[dict[str, Any]]) -> Encoded:
    settings, task = preparation.settings, preparation.task
    columns = task.Columns(**settings.columns)
    rows = [task.training_row(row, columns) for row in batch]
    ids, lengths = _cut(preparation.tokenizer, "text", [row["prompt"] for row in rows], settings.max_length)
    answers = [row["completion"] for row in rows]
    labels, target_lengths = _cut(preparation.tokenizer, "text_target", answers, settings.max_target_length)
    return Encoded(ids, labels, lengths, target_lengths)


def _cut(tokenizer: Any, role: str, texts: list[str], limit: int) -> tuple[list[list[int]], list[int]]:
    """Tokenise texts as input (text) or answer (text_target); also return their lengths before truncation."""
    how = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    ids = list(tokenizer(**{role: texts}, **how)["input_ids"])
    lengths = [len(row) for row in ids]
    if long := [row for row, length in enumerate(lengths) if length > limit]:
        cut = tokenizer(**{role: [texts[row] for row in long]}, truncation=True, max_length=limit, **how)["input_ids"]
        for row, shorter in zip(long, cut, strict=True):
            ids[row] = shorter
    return ids, lengths


def _judge_targets(name: str, rows: Rows, targets: np.ndarray, kept: np.ndarray, preparation: Written) -> None:
    """Refuse a split without remaining rows; warn if some answers are too long."""
    longest = preparation.settings.max_target_length
    if not len(long := np.flatnonzero(targets > longest)):
        return
    if not kept.any():
        preparation.problems.append(
            Problem("DATA-E0804", rows.where(0), f"a text or an answer that is too long in every row of {name}",
                    f"answers of at most {longest} tokens (the shortest has {targets.min()})",
                    "raise max_target_length, or set length_handling=truncate")
        )  # fmt: skip
        return
    done = "left out" if preparation.settings.preprocessing.length_handling == "filter" else "truncated"
    what = f"answers of {name} longer than {longest} tokens were {done} ({len(long) / len(rows):.1%})"
    records = [int(rows.records[row]) for row in long]
    preparation.warn("DATA-W0808", f"{rows.source}: {what}: see max_target_length", records, len(long))


def _sample(tokenizer: Any, ids: list[int], labels: list[int]) -> dict[str, Any]:
    """Return one training row token by token, for the report: the input, then the labels."""
    pieces = [(token, False) for token in ids] + [(token, True) for token in labels]
    shown = [{"text": f"{tokenizer.decode([token])} ", "supervised": learned} for token, learned in pieces]
    return {"split": "train", "tokens": shown[:SAMPLE_TOKENS]}
