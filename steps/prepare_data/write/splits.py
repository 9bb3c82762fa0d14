"""Write one split: tokenise in batches, truncate or filter by length, leave out rows without loss."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from steps.artifacts import Draft
from steps.errors import Problem, UserError
from steps.params.settings import DataSettings
from steps.params.splits import VALIDATION_BY_ROW
from steps.prepare_data.check.rows import Rows, read_back
from steps.prepare_data.findings import ROWS_SHOWN
from steps.prepare_data.write.markers import Markers
from steps.prepare_data.write.reasoning import Reasoning
from steps.prepare_data.write.shortening import fit_texts
from steps.prepare_data.write.tokenising import RefusedRows, Tokens, tokenise
from steps.prepare_data.write.unlearned import mask_unlearned
from steps.prepare_data.write.writing import TokenWriter, length_facts, sample, write_rows

SAMPLES = 3
MOST_WITHOUT_LOSS = 0.01  # share of a file's rows; above it the settings are probably wrong, not the rows


@dataclass
class Preparation:
    """Settings and findings that all splits share."""

    settings: DataSettings
    task: ModuleType
    tokenizer: Any
    template: str | None = None
    """Used instead of the tokenizer's chat template while tokenising."""
    template_name: str = "none"
    markers: Markers | None = None
    """The tokens before answers and questions, if answers are found by them."""
    problems: list[Problem] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    without_loss: dict[str, list[tuple[str, int]]] = field(default_factory=lambda: defaultdict(list))
    """Source → (place, record) of rows without a token with loss."""
    control_tokens: tuple[str, ...] = ()
    """The special tokens that the chat template writes around messages."""
    forged: dict[tuple[str, str], list[tuple[str, int]]] = field(default_factory=lambda: defaultdict(list))
    """Source and control token → (place, record) of rows with this token in a message."""
    unread: dict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(list))
    """Source and sentence → records of rows with reasoning that the chat template does not write."""
    rows_of: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Source → number of its rows in all splits."""

    def warn(self, code: str, what: str, records: list[int] | None = None, count: int = 1) -> None:
        """Add a warning; only its first rows are kept."""
        rows = [int(record) for record in (records or [])[:ROWS_SHOWN]]
        self.warnings.append({"code": code, "what": what, "count": count, "rows": rows})

    def refuse_rows(self, rows: Rows, refusals: dict[int, str]) -> None:
        """Add a problem for each reason for which the chat template refuses rows; `refusals` is row → reason."""
        by_reason: dict[str, list[int]] = defaultdict(list)
        for row, reason in refusals.items():
            by_reason[reason].append(row)
        for reason, refused in by_reason.items():
            records = tuple(int(rows.records[row]) for row in refused)
            self.problems.append(
                Problem("DATA-E0805", rows.where(refused[0]), "a conversation that the chat template refuses",
                        f"one that it can render ({reason})", "change the rows, or set another chat_template",
                        records[:ROWS_SHOWN] if len(records) > 1 else (), len(records))
            )  # fmt: skip

    def refuse_if_problems(self, splits: dict[str, dict[str, Any]]) -> None:
        """Raise UserError with the problems of all splits together."""
        self._judge_rows_without_loss()
        self.judge_forged_turns()
        for (source, what), records in self.unread.items():
            self.warn("DATA-W0841", f"{source}: {what}", sorted(records), len(records))
        sequences, needed = splits["train"]["sequences"], self.settings.rows_per_step
        if not self.problems and sequences < needed:
            left_out = splits["train"]["left_out"]
            why = f", as {left_out:,} rows are too long or have no token to learn" if left_out else ""
            self.problems.append(
                Problem("DATA-E0704", splits["train"]["source"], f"{sequences} training sequences{why}",
                        f"at least {needed}, the sequences of one optimizer step",
                        "add rows, or lower per_device_train_batch_size or gradient_accumulation_steps")
            )  # fmt: skip
        if self.problems:
            raise UserError(self.problems)

    def judge_forged_turns(self) -> None:
        strict = getattr(self.task.Columns(**self.settings.columns), "strict", False)
        for (source, token), rows in self.forged.items():
            records = sorted(record for _, record in rows)
            if strict:
                place, _ = min(rows, key=lambda row: row[1])
                self.problems.append(
                    Problem("DATA-E0812", place, f"the control token {token} inside a message",
                            "text that the model cannot mistake for a turn boundary",
                            "remove the token from the text, or set strict to false",
                            tuple(records[:ROWS_SHOWN]) if len(records) > 1 else (), len(records))
                )  # fmt: skip
            else:
                what = f"messages that contain the control token {token}, which the model reads as a turn boundary"
                self.warn("DATA-W0802", f"{source}: {what}", records, len(records))

    def _judge_rows_without_loss(self) -> None:
        for source, rows in self.without_loss.items():
            share = len(rows) / self.rows_of[source]
            records = [record for _, record in rows]
            if share > MOST_WITHOUT_LOSS:
                self.problems.append(
                    Problem("DATA-E0803", rows[0][0], f"{len(rows)} of {self.rows_of[source]} rows without a token "
                            f"to learn in the first {self.settings.max_length}",
                            f"at most {MOST_WITHOUT_LOSS:.0%}", self._fix_of_rows_without_loss(),
                            tuple(records[:ROWS_SHOWN]), len(rows))
                )  # fmt: skip
            else:
                self.warn("DATA-W0803", f"{source}: rows without a token to learn in the first "
                          f"{self.settings.max_length} ({share:.1%})", records, len(rows))  # fmt: skip

    def _fix_of_rows_without_loss(self) -> str:
        if not self.markers:
            return "raise max_seq_length, or shorten the prompts"
        question = f", instruction_template as {self.markers.instruction}" if self.markers.instruction else ""
        return (f"response_template was read as the tokens {self.markers.response}{question}: set the token ids "
                "from the rows with comma_separated_template=true, or raise max_seq_length")  # fmt: skip


def write_split(draft: Draft, name: str, rows: Rows, preparation: Preparation) -> dict[str, Any]:
    """Write rows/<name>.parquet, tokens/<name>.parquet and, if packed, VALIDATION_BY_ROW; return the split's facts.

    Problems are collected in `preparation`; call its `refuse_if_problems` after the last split.
    """
    preprocessing, limit = preparation.settings.preprocessing, preparation.settings.max_length
    packing = preprocessing.packing and name != "test"
    writer = TokenWriter(draft / f"tokens/{name}.parquet", limit, packing)
    by_row = TokenWriter(draft / VALIDATION_BY_ROW, limit, False) if packing and name == "validation" else None
    kept, lengths = np.ones(len(rows), bool), np.zeros(len(rows), np.int64)
    silent = np.zeros(len(rows), bool)
    for start in range(0, len(rows), preprocessing.batch_size):
        span = slice(start, start + preprocessing.batch_size)
        tokens = _tokens_of(name, rows, span, preparation)
        if tokens is None:
            continue
        lengths[span] = tokens.lengths
        cut = _with_short_texts(tokens, rows, start, preparation).cut(limit)
        if preparation.markers:
            cut = preparation.markers.learn(cut)
        silent[span] = cut.supervised() == 0
        if preprocessing.length_handling == "filter":
            kept[span] = tokens.lengths <= limit
            silent[span] &= kept[span]
        if not packing:  # TRL keeps rows without loss when packing, and drops them otherwise
            kept[span] &= ~silent[span]
        if name == "train" and start == 0:
            preparation.samples = [sample(preparation.tokenizer, cut, row) for row in range(min(SAMPLES, len(cut)))]
        for one in filter(None, (writer, by_row)):
            one.add(cut.select(kept[span]))
    for one in filter(None, (writer, by_row)):
        one.close()
    write_rows(draft / f"rows/{name}.parquet", rows.take(np.flatnonzero(kept)))
    _judge_lengths(name, rows, lengths, preparation)
    preparation.rows_of[rows.source] += len(rows)
    places = [(rows.where(row), int(rows.records[row])) for row in np.flatnonzero(silent).tolist()]
    if places:
        preparation.without_loss[rows.source] += places
    return {
        "source": rows.source,
        "rows": int(kept.sum()),
        **writer.facts(),
        **length_facts(lengths),
        "truncated": int(((lengths > limit) & kept).sum()),
        "left_out": int((~kept).sum()),
    }


def _tokens_of(name: str, rows: Rows, span: slice, preparation: Preparation) -> Tokens | None:
    """Tokenise one batch; None if the chat template refuses some of its rows, which is reported."""
    settings, task = preparation.settings, preparation.task
    columns = task.Columns(**settings.columns)
    batch = read_back(rows.table(span.start, span.stop))
    training = [task.training_row(row, columns) for row in batch]
    completions_only = settings.preprocessing.train_on_completions_only
    note_forged_turns(rows, span.start, training, preparation)
    if "messages" in training[0]:
        note_unread(rows, span.start, [row["messages"] for row in training], preparation)
    tokenizer, template = preparation.tokenizer, preparation.template
    try:
        tokens = tokenise(tokenizer, training, completions_only, template)
        return mask_unlearned(tokens, tokenizer, training, template, completions_only)
    except RefusedRows as refused:
        preparation.refuse_rows(rows, {span.start + position: why for position, why in refused.refusals.items()})
        return None


def note_unread(rows: Rows, start: int, conversations: list[Any], preparation: Preparation) -> None:
    """Record conversations with reasoning that the chat template does not write."""
    reasoning = Reasoning(preparation.tokenizer, preparation.template)
    for number, messages in enumerate(conversations):
        for what in dict.fromkeys(reasoning.left_out(messages)):
            preparation.unread[rows.source, what].append(int(rows.records[start + number]))


def _keeps_answers(preparation: Preparation) -> bool:
    """Return whether long rows are truncated in their text instead of their answer; the task must define the text."""
    truncates = preparation.settings.preprocessing.length_handling == "truncate"
    return truncates and hasattr(preparation.task, "prompt_form") and preparation.tokenizer.is_fast


def _with_short_texts(tokens: Tokens, rows: Rows, start: int, preparation: Preparation) -> Tokens:
    """Replace rows that are too long by rows with a truncated text; `start` is the number of the first row."""
    settings, task = preparation.settings, preparation.task
    long = np.flatnonzero(tokens.lengths > settings.max_length)
    if not len(long) or not _keeps_answers(preparation):
        return tokens
    columns = task.Columns(**settings.columns)
    batch = read_back(rows.table(start, start + len(tokens)))
    training = [task.training_row(batch[row], columns) for row in long.tolist()]
    completions_only = settings.preprocessing.train_on_completions_only
    form = task.prompt_form(columns)
    short = fit_texts(preparation.tokenizer, training, form, settings.max_length, completions_only)
    order = np.arange(len(tokens))
    order[long] = len(tokens) + np.arange(len(long))
    return Tokens.joined([tokens, short]).take(order)


def note_forged_turns(
    rows: Rows, start: int, training: list[dict[str, Any]], preparation: Preparation, key: str = "messages"
) -> None:
    """Record messages that contain control tokens of the template, which could be read as the start of another turn.

    `key` is the column of the messages, if no parameter names it.
    """
    if not any("messages" in row for row in training) or not preparation.control_tokens:
        return
    texts = ["\n".join(message["content"] or "" for message in row.get("messages", ())) for row in training]
    together = "\0".join(texts)
    key = preparation.settings.columns.get("messages_key", key)
    for token in preparation.control_tokens:
        if token not in together:
            continue
        for row in (row for row, text in enumerate(texts) if token in text):
            held = [token in (message["content"] or "") for message in training[row]["messages"]]
            place = rows.where(start + row, f"{key}[{held.index(True)}].content")
            preparation.forged[rows.source, token].append((place, int(rows.records[start + row])))


def _judge_lengths(name: str, rows: Rows, lengths: np.ndarray, preparation: Preparation) -> None:
    """Refuse a split in which every row is too long; warn if some are."""
    limit = preparation.settings.max_length
    long = np.flatnonzero(lengths > limit)
    if not len(long):
        return
    done = "left out" if preparation.settings.preprocessing.length_handling == "filter" else "truncated"
    records = [int(rows.records[row]) for row in long]
    cut_away = name == "train" and not _keeps_answers(preparation)
    if len(long) == len(rows) and (cut_away or done == "left out"):
        preparation.problems.append(
            Problem("DATA-E0804", rows.where(0), f"every row of {name} longer than {limit} tokens "
                    f"(the shortest has {lengths.min()})", f"rows of at most {limit} tokens",
                    "raise max_seq_length, or shorten the rows")
        )  # fmt: skip
    else:
        preparation.warn("DATA-W0804", f"{rows.source}: rows of {name} longer than {limit} tokens were {done} "
                         f"({len(long) / len(rows):.1%})", records, len(long))  # fmt: skip
