"""The held-out rows, as inputs of the engines."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.artifacts import read_manifest
from steps.errors import Problem, UserError
from steps.generation.conversations import Conversations
from steps.params.settings import EvaluationSettings
from steps.params.splits import VALIDATION_BY_ROW
from steps.tasks import load_task

IGNORED = -100  # the label of a token without loss


@dataclass(frozen=True)
class HeldOut:
    """The first rows of a held-out split; every list has one entry for each row."""

    input_ids: list[np.ndarray]
    """Token ids of prompt and answer; with an encoder-decoder model, of the prompt only."""
    labels: list[np.ndarray]
    """The same ids, IGNORED for tokens without loss; with an encoder-decoder model, the ids of the answer."""
    prompts: list[str | None]
    """The prompt as the model reads it; None for a row without a question."""
    references: list[str | None]
    """The right answer, as the chat template writes it."""
    rendered: bool
    """Whether the prompts were rendered by a chat template, and so have their special tokens."""
    ending: str | None = None
    """The part after the text of every prompt; None if prompts have no such form."""
    opening: dict[str, int] = field(default_factory=dict)
    """Generation settings for the first tokens of an answer, such as its language, of encoder-decoder models."""

    end_of_turn: str = ""
    """Token that ends the assistant's turn."""
    template_tokens: int = 0
    """Tokens that the chat template writes before the text of an answer, in addition to those of the answer."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def asked(self) -> bool:
        """Whether any row has a question."""
        return any(prompt is not None for prompt in self.prompts)


@dataclass(frozen=True)
class Measured:
    """The results of one model on the held-out rows; every array and list has one entry for each row."""

    nll: np.ndarray
    """Sum of the negative log-likelihood over the row's supervised tokens, in nats."""
    supervised: np.ndarray
    """Number of these tokens."""
    answers: list[str | None]
    """Generated text; None for a row without a question."""
    engine: str = ""
    """What wrote the answers, if not transformers."""

    @property
    def row_losses(self) -> list[float | None]:
        """Mean negative log-likelihood of each row; None for a row without supervised tokens."""
        pairs = zip(self.nll.tolist(), self.supervised.tolist(), strict=True)
        return [nll / count if count else None for nll, count in pairs]


def read_held_out(settings: EvaluationSettings, data: Path, model: Path) -> HeldOut:
    """Read the first rows of the split; `model` is the folder whose tokenizer renders conversations.

    Raises UserError if there are none, or none with a supervised token.
    """
    rows, tokens = first_rows(settings, data, ["input_ids", "labels"])
    labels = arrays(tokens["labels"])
    apart = settings.recipe.kind.has_encoder
    if not any((row[0 if apart else 1 :] != IGNORED).any() for row in labels):
        raise UserError(
            Problem("EVAL-E0202", f"{settings.split}_file_path", f"{len(labels)} {settings.split} rows, none of which "
                    "has a token with loss", "an answer in each row",
                    "raise max_seq_length, as the answers were truncated")
        )  # fmt: skip
    prompts, references, rendered, added = _asked(settings, rows.to_pylist(), model, data)
    facts = read_manifest(data, "data").facts
    told = (_ending(settings), facts["opening"] if apart else {}, facts.get("end_of_turn", ""), added)
    return HeldOut(arrays(tokens["input_ids"]), labels, prompts, references, rendered, *told)


def first_rows(settings: EvaluationSettings, data: Path, columns: list[str] | None = None) -> tuple[pa.Table, pa.Table]:
    """Read the first rows of the split, and `columns` of their tokens. Raises UserError if there are none."""
    name = settings.split
    rows = read_rows(settings, data)
    apart = data / VALIDATION_BY_ROW
    if name == "validation" and apart.is_file():
        tokens = pq.read_table(apart, columns=columns)
        if "labels" in tokens.column_names:  # a packed split keeps rows without loss, which no test split has
            learned = pa.array([bool((row != IGNORED).any()) for row in arrays(tokens["labels"])], pa.bool_())
            rows, tokens = rows.filter(learned), tokens.filter(learned)
    else:
        tokens = pq.read_table(data / "tokens" / f"{name}.parquet", columns=columns)
    if len(rows) != len(tokens):
        raise ValueError(f"{data}: {len(rows)} {name} rows, but tokens for {len(tokens)}")
    chosen = first(rows, settings)
    return chosen, tokens.slice(0, len(chosen))


def read_rows(settings: EvaluationSettings, data: Path) -> pa.Table:
    """Read all canonical rows of the split. Raises UserError if the data have no such split."""
    file = data / "rows" / f"{settings.split}.parquet"
    if not file.is_file():
        raise _without_rows(settings)
    return pq.read_table(file)


def first(rows: pa.Table, settings: EvaluationSettings) -> pa.Table:
    """Return the rows to evaluate, the first ones of the split. Raises UserError if there are none."""
    wanted = settings.evaluation.evaluation_max_rows
    chosen = rows.slice(0, wanted if wanted >= 0 else None)
    if not len(chosen):
        raise _without_rows(settings)
    return chosen


def _without_rows(settings: EvaluationSettings) -> UserError:
    name, unbounded = settings.split, settings.evaluation.evaluation_max_rows != 0
    fix = f"provide {name} rows, or leave evaluation_max_rows at -1"
    if name == "validation" and unbounded:
        fix = "set validation_file_path, or auto_split=true, which splits validation rows off the training rows"
    return UserError(
        Problem("EVAL-E0201", f"{name}_file_path" if unbounded else "evaluation_max_rows", f"no {name} row",
                "at least one row to evaluate", fix)
    )  # fmt: skip


def _ending(settings: EvaluationSettings) -> str | None:
    module = load_task(settings.task)
    return module.prompt_form(module.Columns(**settings.columns))[1] if hasattr(module, "prompt_form") else None


def _asked(
    settings: EvaluationSettings, rows: list[dict[str, Any]], model: Path, data: Path
) -> tuple[list[str | None], list[str | None], bool, int]:
    """Return prompts, right answers, whether a chat template rendered them, and the tokens that it adds to an answer.

    Plain prompts are unchanged.
    """
    module = load_task(settings.task)
    columns = module.Columns(**settings.columns)
    questions = [module.question(row, columns) for row in rows]
    rendered = any(question and isinstance(question[0], list) for question in questions)
    if not rendered:
        pairs = [question or (None, None) for question in questions]
        return [prompt for prompt, _ in pairs], [answer for _, answer in pairs], False, 0
    talk = Conversations(model, data)
    prompts: list[str | None] = []
    references: list[str | None] = []
    for row, question in zip(rows, questions, strict=True):
        trained = module.training_row(row, columns)
        tools = trained.get("tools")
        prompts.append(talk.prompt(question[0], tools) if question else None)
        references.append(talk.answer(trained["messages"], tools) if question else None)
    return prompts, references, True, talk.added


def arrays(column: pa.ChunkedArray) -> list[np.ndarray]:
    """Split a column of lists into one array for each row."""
    values = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):  # a column without any chunk
        return []
    lengths = values.value_lengths().to_numpy(zero_copy_only=False)
    return np.split(values.flatten().to_numpy(zero_copy_only=False), np.cumsum(lengths)[:-1])
