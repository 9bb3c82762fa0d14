"""Rows for training with rewards: prompts as tokens, to which the model writes completions during training.

{"problem": "2 + 2?", "solution": "4", "level": 1}  →  prompt_ids, with the chat template's prompt for an answer

rows/<split>.parquet and tokens/<split>.parquet have the same rows in the same order; ground truth and all other columns
are in the former, for the reward functions.

The tokens of a prompt with images have one token for each part of an image, as the model reads them.

Lengths: a prompt longer than max_prompt_length keeps its end, or is left out (length_handling=filter). The limit is
lower if max_completion_length would not fit behind it into the model's positions.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.artifacts import Draft
from steps.errors import Problem, UserError, nearest, some_of
from steps.models.images import ImageReader, image_reader
from steps.models.layout import CONFIG, positions_of
from steps.params.settings import DataSettings
from steps.prepare_data.check.checking import DataCheck
from steps.prepare_data.check.rows import Rows, read_back
from steps.prepare_data.check.splitting import SPLITS
from steps.prepare_data.write.prompts import Fitted, fit_prompts
from steps.prepare_data.write.questions import tokenise_questions, tokenise_with_images
from steps.prepare_data.write.settling import settle, settle_clock, store_templates
from steps.prepare_data.write.splits import SAMPLES, Preparation, note_forged_turns, note_unread
from steps.prepare_data.write.templates import end_of_turn, load_tokenizer
from steps.prepare_data.write.tokenising import RefusedRows
from steps.prepare_data.write.writing import FIXED, NUMBERS, ROW_GROUP, SAMPLE_TOKENS, length_facts, write_rows
from steps.tasks import load_task
from steps.tasks.rules.rewarded import judged_row

TRUTH = "ground_truth"
ROWS_WITH_IMAGES = 64  # in memory at a time


@dataclass
class Rewarded(Preparation):
    """Settings and findings that all splits share."""

    positions: int | None = None
    """Positions of the model; None without a limit, or if it is not known."""
    images: ImageReader | None = None
    """Prepares images as the model's processor does; None for a model of text."""
    columns: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Source → column for the rewards → number of rows that have it, at least 0."""
    values: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """The same for the rows in which it is not null."""

    @property
    def columns_asked(self) -> Any:
        """The columns that the user named."""
        return self.task.Columns(**self.settings.columns)

    @property
    def longest(self) -> int:
        """Longest prompt in tokens."""
        return min(self.settings.max_prompt_length, self.room)

    @property
    def room(self) -> int:
        """Longest prompt in tokens that leaves room for a completion in the model's positions."""
        return (self.positions or 2**31) - self.settings.max_completion_length


def prepare(settings: DataSettings, folder: Path) -> Rewarded:
    """Load the tokenizer and the chat template.

    Raises UserError if they are unusable, or if the model has no room for a prompt and a completion.
    """
    tokenizer = load_tokenizer(folder, settings.preprocessing.chat_template)
    reader = image_reader(folder) if settings.recipe.kind.reads_images else None
    preparation = Rewarded(settings, load_task(settings.task), tokenizer, positions=_positions(folder), images=reader)
    settle(preparation)
    if not (tokenizer.eos_token or end_of_turn(tokenizer)):
        raise UserError(
            Problem("DATA-E0807", "tokenizer", "no end-of-text token", "eos_token in tokenizer_config.json",
                    "add it to the model's tokenizer files", why="a completion would never end")
        )  # fmt: skip
    if preparation.room < 1:
        raise UserError(
            Problem("DATA-E0826", "max_completion_length", str(settings.max_completion_length),
                    f"less than {preparation.positions}, the model's number of positions", "lower it",
                    why="the prompt must fit before the completion")
        )  # fmt: skip
    settle_clock(preparation)
    return preparation


def write(draft: Draft, preparation: Rewarded, checked: DataCheck) -> dict[str, Any]:
    """Write every split and return the facts. Raises UserError with the problems of all splits."""
    splits = {name: _write_split(draft, name, checked.rows[name], preparation) for name in SPLITS}
    preparation.problems += _column_problems(preparation)
    _warn_of_empty_columns(preparation)
    _refuse_few_prompts(splits["train"], preparation)
    preparation.refuse_if_problems(splits)
    store_templates(draft, preparation)
    return {
        "task": preparation.settings.task,
        "rewarded": True,
        "columns": _columns(preparation),
        "max_length": preparation.longest,
        "packing": False,
        "template": preparation.template_name,
        "end_of_turn": end_of_turn(preparation.tokenizer),
        "chat": True,
        "splits": splits,
        "sources": checked.sources,
        "repairs": checked.repairs,
        "warnings": checked.warnings + preparation.warnings,
        "samples": preparation.samples,
    }


def _positions(folder: Path) -> int | None:
    config = folder / CONFIG
    return positions_of(json.loads(config.read_text(encoding="utf-8"))) if config.is_file() else None


def _write_split(draft: Draft, name: str, rows: Rows, preparation: Rewarded) -> dict[str, Any]:
    """Write rows/<name>.parquet and tokens/<name>.parquet; return the facts."""
    prompts: list[list[int]] = []
    asked = preparation.settings.preprocessing.batch_size
    size = min(asked, ROWS_WITH_IMAGES) if preparation.images else asked
    for start in range(0, len(rows), size):
        batch = read_back(rows.table(start, start + size))
        made = _tokens_of(rows, start, batch, preparation)
        if name == "train" and start == 0:
            preparation.samples = [_sample(preparation.tokenizer, prompt) for prompt in made[:SAMPLES]]
        prompts += made
    preparation.rows_of[rows.source] += len(rows)
    if len(prompts) < len(rows):  # the chat template refuses some, which is reported
        return {"source": rows.source, "rows": 0, "sequences": 0, "left_out": 0}
    fitted = fit_prompts(prompts, preparation.longest, preparation.settings.preprocessing.length_handling)
    file = draft / f"tokens/{name}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"prompt_ids": pa.array(fitted.prompts, NUMBERS)}), file, **FIXED)
    group = ROWS_WITH_IMAGES if preparation.images else ROW_GROUP
    write_rows(draft / f"rows/{name}.parquet", rows.take(np.flatnonzero(fitted.kept)), group)
    _judge(name, rows, fitted, preparation)
    return {
        "source": rows.source,
        "rows": len(fitted.prompts),
        "sequences": len(fitted.prompts),
        "tokens": sum(map(len, fitted.prompts)),
        "supervised_tokens": 0,
        "fill": None,
        **length_facts(fitted.lengths),
        "truncated": fitted.truncated,
        "left_out": fitted.left_out,
    }


def _tokens_of(rows: Rows, start: int, batch: list[dict[str, Any]], preparation: Rewarded) -> list[list[int]]:
    """Tokenise one batch, and count the columns for the rewards; no rows if the chat template refuses some of them."""
    given = [judged_row(row) for row in batch]
    for row in given:
        there = {name: value for name, value in row.items() if name != "prompt"}
        preparation.columns[rows.source].update(there.keys())
        preparation.values[rows.source].update(name for name, value in there.items() if value is not None)
    asked = [{"messages": row["prompt"]} for row in given]
    note_forged_turns(rows, start, asked, preparation, preparation.task.prompt_column(preparation.columns_asked))
    note_unread(rows, start, [row["messages"] for row in asked], preparation)
    try:
        if preparation.images:
            return tokenise_with_images(preparation.tokenizer, preparation.images, asked, [r["images"] for r in batch])
        return tokenise_questions(preparation.tokenizer, asked)
    except RefusedRows as refused:
        preparation.refuse_rows(rows, {start + position: why for position, why in refused.refusals.items()})
        return []


def _judge(name: str, rows: Rows, fitted: Fitted, preparation: Rewarded) -> None:
    """Refuse a split without remaining prompts; warn of prompts that are too long, or equal after truncation."""
    settings, limit = preparation.settings, preparation.longest
    lowered = limit < settings.max_prompt_length
    why = (f", which leave room for a completion of {settings.max_completion_length} in the model's "
           f"{preparation.positions} positions" if lowered else "")  # fmt: skip
    if fitted.all_long and not fitted.prompts:
        preparation.problems.append(
            Problem("DATA-E0820", rows.where(0), f"every prompt of {name} longer than {limit} tokens{why} "
                    f"(the shortest has {fitted.lengths.min()})", f"prompts of at most {limit} tokens",
                    "lower max_completion_length, or set length_handling=truncate" if lowered else
                    "raise max_prompt_length, or set length_handling=truncate")
        )  # fmt: skip
        return
    if len(fitted.long):
        done = "were truncated at the start" if fitted.truncated else "were left out"
        share = f"{len(fitted.long) / len(rows):.1%}"
        records = [int(rows.records[row]) for row in fitted.long]
        what = f"{rows.source}: prompts of {name} longer than {limit} tokens{why} {done} ({share})"
        preparation.warn("DATA-W0807", what, records, len(records))
    if equal := _equal_after_truncation(fitted):
        what = f"{rows.source}: prompts of {name} that equal another one in their last {limit} tokens"
        preparation.warn("DATA-W1527", what, [int(rows.records[row]) for row in equal], len(equal))


def _equal_after_truncation(fitted: Fitted) -> list[int]:
    """Return the truncated prompts that equal another one of the split."""
    if not fitted.truncated:
        return []
    counts = Counter(map(tuple, fitted.prompts))
    return [int(row) for row in fitted.long if counts[tuple(fitted.prompts[row])] > 1]


def _columns(preparation: Rewarded) -> list[str]:
    """Return the columns that rewards can take, of all sources."""
    found = dict.fromkeys(name for counts in preparation.columns.values() for name in counts)
    empty = TRUTH in found and not any(values[TRUTH] for values in preparation.values.values())
    return [name for name in found if not (empty and name == TRUTH)]


def _column_problems(preparation: Rewarded) -> Iterator[Problem]:
    """Yield a problem for each column that a reward needs and no row of a file has."""
    named = preparation.task.truth_column(preparation.columns_asked)
    for source, counts in preparation.columns.items():
        empty = not preparation.values[source][TRUTH]
        names = [name for name in counts if name != TRUTH]
        for needed in preparation.settings.reward_columns:
            if needed == TRUTH and empty:
                fix = nearest(named, names) or preparation.task.NAME_TRUTH
                yield Problem("DATA-E1528", source, f"no right answer in a column {named!r} (there are "
                              f"{some_of(names)})", "the right answer of each row, for the rewards", fix)  # fmt: skip
            elif needed != TRUTH and not counts[needed]:
                there = names if empty else [TRUTH, *names]
                yield Problem("DATA-E1528", source, f"no column {needed!r} (there are {some_of(there)})",
                              "every column that a reward takes by name",
                              nearest(needed, there) or "add the column to the rows, or name another one")  # fmt: skip


def _warn_of_empty_columns(preparation: Rewarded) -> None:
    """Warn of columns that a reward needs and that only some rows have."""
    for source, values in preparation.values.items():
        for needed in preparation.settings.reward_columns:
            absent = preparation.rows_of[source] - values[needed]
            if absent and preparation.columns[source][needed] and not (needed == TRUTH and not values[TRUTH]):
                what = f"{source}: no value in the column {needed}, which a reward takes: it gets None"
                preparation.warn("DATA-W1529", what, count=absent)


def _refuse_few_prompts(train: dict[str, Any], preparation: Rewarded) -> None:
    """Add a problem if the prompts are too few for one generation, as incomplete ones are not written."""
    count, needed = train["sequences"], preparation.settings.rows_per_step
    if not preparation.problems and count < needed:
        out = train["left_out"]
        left_out = f", as {out:,} {'is' if out == 1 else 'are'} too long" if out else ""
        preparation.problems.append(
            Problem("DATA-E0704", train["source"], f"{count} training prompts{left_out}",
                    f"at least {needed}, the prompts of one generation",
                    "add rows, or lower per_device_train_batch_size or gradient_accumulation_steps")
        )  # fmt: skip


def _sample(tokenizer: Any, prompt: list[int]) -> dict[str, Any]:
    """Return one prompt token by token for the report."""
    shown = [{"text": tokenizer.decode([token]), "supervised": False} for token in prompt[-SAMPLE_TOKENS:]]
    return {"split": "train", "tokens": shown}
