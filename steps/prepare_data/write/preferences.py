"""Rows for preference training: a prompt and its answers as tokens.

{"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}     →  prompt_ids, chosen_ids, rejected_ids
{"prompt": "2 + 2?", "completion": "5", "label": false}  →  prompt_ids, completion_ids, label

If pairs are split (`unpairs`), train and validation have two rated rows for each pair; test keeps its pairs, because
metrics compare the two answers, and those of validation are in a further file (VALIDATION_BY_ROW). Rated rows are
shuffled: KTO's trainer keeps their order and estimates the KL term of a batch from mismatched answers of neighbouring
rows, which must not be answers to the same prompt.

Lengths: a prompt longer than max_prompt_length keeps its end, answers are truncated at max_seq_length. A row whose
prompt fills max_seq_length has no tokens to learn and is left out, as in TRL.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from steps.artifacts import Draft
from steps.errors import Problem, UserError
from steps.params.settings import DataSettings
from steps.params.splits import VALIDATION_BY_ROW
from steps.prepare_data.check.checking import DataCheck
from steps.prepare_data.check.rows import Rows, read_back
from steps.prepare_data.check.splitting import SPLITS
from steps.prepare_data.write.answer_tables import PAIR, RATED, TokenTables
from steps.prepare_data.write.answer_tokens import Answered, tokenise_answers
from steps.prepare_data.write.lengths import judge_lengths
from steps.prepare_data.write.prompts import fit_prompts
from steps.prepare_data.write.settling import settle, settle_clock, store_templates
from steps.prepare_data.write.splits import SAMPLES, Preparation, note_unread
from steps.prepare_data.write.templates import KEEP, end_of_turn, load_tokenizer
from steps.prepare_data.write.tokenising import RefusedRows
from steps.prepare_data.write.writing import SAMPLE_TOKENS, length_facts, write_rows
from steps.tasks import load_task


@dataclass
class Preferences(Preparation):
    """Settings and findings that all splits share."""

    conversations: int = 0
    """Number of rows with messages."""
    rows_seen: int = 0
    """Number of all rows."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of a row's answers."""
        return RATED if self.settings.task == "kto" else PAIR


@dataclass
class Split:
    """Findings in one split; arrays have one entry for each row."""

    lengths: np.ndarray
    """Tokens of the longest sequence, before truncation."""
    fitted: np.ndarray
    """The same after truncation of the prompt."""
    kept: np.ndarray
    silent: np.ndarray
    """Rows without tokens left for an answer."""
    equal: np.ndarray
    """Pairs whose answers are equal after truncation."""
    prompts: list[int] = field(default_factory=list)
    """Rows whose prompt was too long."""
    parted: list[int] = field(default_factory=list)
    """Rows in which a token spans the boundary of prompt and answer."""

    @classmethod
    def of(cls, rows: int) -> Split:
        """Return empty findings for a split of this many rows."""
        numbers, marks = np.zeros(rows, np.int64), np.zeros(rows, bool)
        return cls(numbers, numbers.copy(), ~marks, marks, marks.copy())


def prepare(settings: DataSettings, folder: Path) -> Preferences:
    """Load the tokenizer and the chat template. Raises UserError if they are unusable."""
    tokenizer = load_tokenizer(folder, settings.preprocessing.chat_template)
    if not tokenizer.eos_token:
        raise UserError(
            Problem("DATA-E0807", "tokenizer", "no end-of-text token", "eos_token in tokenizer_config.json",
                    "add it to the model's tokenizer files")
        )  # fmt: skip
    return Preferences(settings, load_task(settings.task), tokenizer)


def write(draft: Draft, preparation: Preferences, checked: DataCheck) -> dict[str, Any]:
    """Write every split and return the facts. Raises UserError with the problems of all splits."""
    settings = preparation.settings
    splits = {name: _write_split(draft, name, checked.rows[name], preparation) for name in SPLITS}
    preparation.refuse_if_problems(splits)
    if preparation.conversations:
        store_templates(draft, preparation)
    elif settings.preprocessing.chat_template != KEEP:
        preparation.warn("DATA-W0809", "chat_template was not used: the rows are texts, not conversations")
    return {
        "task": settings.task,
        "max_length": settings.max_length,
        "packing": False,
        "template": preparation.template_name,
        "end_of_turn": end_of_turn(preparation.tokenizer) if preparation.conversations else "",
        "chat": preparation.conversations == preparation.rows_seen,
        "splits": splits,
        "sources": checked.sources,
        "repairs": checked.repairs,
        "warnings": checked.warnings + preparation.warnings,
        "samples": preparation.samples,
    }


def _write_split(draft: Draft, name: str, rows: Rows, preparation: Preferences) -> dict[str, Any]:
    """Write rows/<name>.parquet, tokens/<name>.parquet and, if pairs are split, VALIDATION_BY_ROW; return the facts."""
    settings = preparation.settings
    if name != "test" and preparation.names == RATED:
        rows = rows.take(np.random.default_rng(settings.seed).permutation(len(rows)))
    seen = Split.of(len(rows))
    unpairs = settings.unpairs and name != "test"
    writer = TokenTables(draft / f"tokens/{name}.parquet", RATED if unpairs else preparation.names)
    by_row = TokenTables(draft / VALIDATION_BY_ROW, PAIR) if unpairs and name == "validation" else None
    for start in range(0, len(rows), settings.preprocessing.batch_size):
        batch = read_back(rows.table(start, start + settings.preprocessing.batch_size))
        answered = _tokens_of(rows, start, batch, preparation)
        if answered is None:
            continue
        if name == "train" and start == 0:
            shown = range(min(SAMPLES, len(answered)))
            preparation.samples = [_sample(preparation.tokenizer, answered, row) for row in shown]
        fitted = _fitted(answered, [row.get("label") for row in batch], start, seen, preparation)
        writer.add(fitted)
        if by_row:
            by_row.add(fitted)
    writer.close(settings.seed if unpairs else None)
    if by_row:
        by_row.close(None)
    write_rows(draft / f"rows/{name}.parquet", rows.take(np.flatnonzero(seen.kept)))
    _judge(name, rows, seen, preparation)
    return {
        "source": rows.source,
        "rows": int(seen.kept.sum()),
        "sequences": writer.sequences,
        "tokens": writer.tokens,
        "supervised_tokens": writer.supervised,
        "fill": None,
        **length_facts(seen.lengths),
        "truncated": int(((seen.fitted > settings.max_length) & seen.kept).sum()),
        "left_out": int((~seen.kept).sum()),
    }


def _tokens_of(rows: Rows, start: int, batch: list[dict[str, Any]], preparation: Preferences) -> Answered | None:
    """Tokenise one batch; None if the chat template refuses some of its rows, which is reported."""
    columns = preparation.task.Columns(**preparation.settings.columns)
    training = [preparation.task.training_row(row, columns) for row in batch]
    chats = sum(type(row["prompt"]) is list for row in training)
    if chats and not preparation.conversations:
        settle(preparation)
        settle_clock(preparation)
    preparation.conversations += chats
    preparation.rows_seen += len(batch)
    _note_forged_turns(rows, start, training, preparation)
    for name in preparation.names:
        talks = [row["prompt"] + row[name] if type(row["prompt"]) is list else [] for row in training]
        note_unread(rows, start, talks, preparation)
    try:
        return tokenise_answers(preparation.tokenizer, training, preparation.names)
    except RefusedRows as refused:
        preparation.refuse_rows(rows, {start + position: why for position, why in refused.refusals.items()})
        return None


def _fitted(
    answered: Answered, labels: list[bool | None], start: int, seen: Split, preparation: Preferences
) -> dict[str, list[Any]]:
    """Truncate prompts and answers to their limits; return the columns of the remaining rows."""
    settings = preparation.settings
    span = slice(start, start + len(answered))
    seen.lengths[span] = answered.lengths
    cut = fit_prompts(answered.prompts, settings.max_prompt_length, "truncate")
    answered.prompts = cut.prompts
    seen.fitted[span] = answered.lengths
    seen.prompts += [start + int(row) for row in cut.long]
    seen.parted += [start + row for row, parted in enumerate(answered.parted) if parted]
    if settings.preprocessing.length_handling == "filter":
        seen.kept[span] = seen.fitted[span] <= settings.max_length
        seen.kept[start + cut.long] = False
    columns: dict[str, list[Any]] = {key: [] for key in ("prompt", *answered.answers, "label")}
    for row, prompt in enumerate(answered.prompts):
        place = start + row
        if not seen.kept[place]:
            continue
        room = max(settings.max_length - len(prompt), 0)
        answers = [ids[row][:room] for ids in answered.answers.values()]
        seen.kept[place] = all(answers)
        seen.silent[place] = not all(answers)
        seen.equal[place] = len(answers) == 2 and answers[0] == answers[1] != []
        if seen.kept[place]:
            for key, value in zip(columns, [prompt, *answers, labels[row]], strict=True):
                columns[key].append(value)
    return columns


def _judge(name: str, rows: Rows, seen: Split, preparation: Preferences) -> None:
    """Add the problems and warnings about rows of a split that were truncated or left out."""
    preparation.rows_of[rows.source] += len(rows)
    judge_lengths(name, rows, seen.fitted, preparation, hint=", prompts with their answers")
    settings = preparation.settings
    filtered = settings.preprocessing.length_handling == "filter"
    if filtered and len(seen.prompts) == len(rows):
        preparation.problems.append(
            Problem("DATA-E0820", rows.where(0), f"every prompt of {name} longer than {settings.max_prompt_length} "
                    "tokens", f"prompts of at most {settings.max_prompt_length} tokens",
                    "raise max_prompt_length, or set length_handling=truncate")
        )  # fmt: skip
    silent = np.flatnonzero(seen.silent).tolist()
    if silent:
        preparation.without_loss[rows.source] += [(rows.where(row), int(rows.records[row])) for row in silent]

    def warn(code: str, what: str, numbers: list[int]) -> None:
        if numbers:
            share = f" ({len(numbers) / len(rows):.1%})"
            records = [int(rows.records[row]) for row in numbers]
            preparation.warn(code, f"{rows.source}: {what}{share}", records, len(numbers))

    done = "were left out" if filtered else "were truncated at the start"
    warn("DATA-W0807", f"prompts of {name} longer than {settings.max_prompt_length} tokens {done}", seen.prompts)
    warn("DATA-W1505", f"pairs of {name} whose answers are equal in the first {settings.max_length} tokens, "
         "without a training signal", np.flatnonzero(seen.equal).tolist())  # fmt: skip
    warn("DATA-W1506", f"prompts of {name} that end in other tokens alone than before their answers: the answers begin "
         "at the first difference", seen.parted)  # fmt: skip


def _note_forged_turns(rows: Rows, start: int, training: list[dict[str, Any]], preparation: Preferences) -> None:
    """Record messages that contain control tokens of the template, which could be read as the start of another turn."""
    if not preparation.control_tokens:
        return
    for number, row in enumerate(training):
        if type(row["prompt"]) is not list:
            continue
        for part in ("prompt", *preparation.names):
            texts = [message["content"] or "" for message in row[part]]
            for token in preparation.control_tokens:
                held = [token in text for text in texts]
                if any(held):
                    key = preparation.settings.columns.get(f"{part}_key", part)
                    place = rows.where(start + number, f"{key}[{held.index(True)}].content")
                    preparation.forged[rows.source, token].append((place, int(rows.records[start + number])))


def _sample(tokenizer: Any, answered: Answered, row: int) -> dict[str, Any]:
    """Return one training row for the report: the prompt, then each answer."""
    tokens = [(token, False) for token in answered.prompts[row]]
    pieces = [{"text": tokenizer.decode([token]), "supervised": learned} for token, learned in tokens[-SAMPLE_TOKENS:]]
    for name, ids in answered.answers.items():
        pieces.append({"text": f"\n[{name}] ", "supervised": False})
        pieces += [{"text": tokenizer.decode([token]), "supervised": True} for token in ids[row][:SAMPLE_TOKENS]]
    return {"split": "train", "tokens": pieces}
