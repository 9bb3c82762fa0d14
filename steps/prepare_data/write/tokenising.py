"""Convert rows to token ids and labels in batches, with the same result as TRL's SFTTrainer.

TRL prepares a data set in five passes, with a Python function per row; here each batch is rendered, tokenised and
labelled once, on flat arrays. Choices that look arbitrary are TRL 1.16's (`SFTTrainer._prepare_dataset`);
tests/steps/test_prepare_data_tokens.py compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

import numpy as np

from steps.prepare_data.write.marks import render_marked
from steps.prepare_data.write.offsets import Span, mark, ranges_of, spelling
from steps.tasks.rules.json_text import from_json

ROWS_ENCODED_TOGETHER = 64  # the tokenizer's encodings take twenty times the memory of the ids
NO_LOSS = -100


def template_errors() -> tuple[type[Exception], ...]:
    """Return what rendering a conversation may raise: Jinja's own errors, and those of the expressions in a template.

    TypeError: a text and a missing value are concatenated; others come from a division, an index, a conversion or a
    method that is not there.
    """
    import jinja2

    return (jinja2.TemplateError, TypeError, ArithmeticError, LookupError, ValueError, AttributeError, RecursionError)


class RefusedRows(Exception):
    """The chat template refused some rows of a batch."""

    def __init__(self, refusals: dict[int, str]):
        super().__init__(f"{len(refusals)} rows refused by the chat template")
        self.refusals = refusals
        """Position in the batch → the template's error message."""


@dataclass
class Tokens:
    """The concatenated tokens of several rows."""

    ids: np.ndarray
    """Token ids of all rows, int32."""
    labels: np.ndarray
    """The same, with NO_LOSS for tokens without loss, int32."""
    lengths: np.ndarray
    """Number of tokens of each row, int64."""

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def starts(self) -> np.ndarray:
        """Start of each row, and the end of the last one: one more value than rows."""
        return np.concatenate(([0], np.cumsum(self.lengths)))

    def supervised(self) -> np.ndarray:
        """Number of tokens with loss in each row."""
        with_loss = np.concatenate(([0], np.cumsum(self.labels != NO_LOSS)))
        starts = self.starts
        return with_loss[starts[1:]] - with_loss[starts[:-1]]

    def cut(self, longest: int) -> Tokens:
        """Keep the first `longest` tokens of each row."""
        if len(self) == 0 or self.lengths.max() <= longest:
            return self
        place = np.arange(len(self.ids)) - np.repeat(self.starts[:-1], self.lengths)
        keep = place < longest
        return Tokens(self.ids[keep], self.labels[keep], np.minimum(self.lengths, longest))

    def select(self, rows: np.ndarray) -> Tokens:
        """Keep the rows for which the mask is true."""
        if rows.all():
            return self
        keep = np.repeat(rows, self.lengths)
        return Tokens(self.ids[keep], self.labels[keep], self.lengths[rows])

    def between(self, first: int, end: int) -> Tokens:
        """Keep the rows from `first` to before `end`."""
        start, stop = self.starts[[first, end]]
        return Tokens(self.ids[start:stop], self.labels[start:stop], self.lengths[first:end])

    def take(self, rows: np.ndarray) -> Tokens:
        """Return the given rows in the given order."""
        lengths = self.lengths[rows]
        starts = np.concatenate(([0], np.cumsum(lengths)))
        places = np.arange(starts[-1]) + np.repeat(self.starts[:-1][rows] - starts[:-1], lengths)
        return Tokens(self.ids[places], self.labels[places], lengths)

    @staticmethod
    def joined(parts: list[Tokens]) -> Tokens:
        """Concatenate the rows of several parts."""
        if len(parts) == 1:
            return parts[0]
        ids, labels, lengths = zip(*((part.ids, part.labels, part.lengths) for part in parts), strict=True)
        return Tokens(np.concatenate(ids), np.concatenate(labels), np.concatenate(lengths))


def tokenise(tokenizer: Any, rows: list[dict[str, Any]], completions_only: bool, template: str | None) -> Tokens:
    """Convert rows in TRL's form to tokens and labels: all {messages}, all {prompt, completion}, or all {text}.

    Conversations may have `tools`, as a list or as JSON text, which their template lists.
    `template` replaces the tokenizer's chat template. Raises RefusedRows.
    """
    if "messages" in rows[0]:
        if completions_only:
            return _assistant_turns(tokenizer, rows, template)
        return _all_learned(encode(tokenizer, _render(tokenizer, rows, template), special=False))
    if "prompt" in rows[0]:
        prompts = [row["prompt"] for row in rows]
        whole = [prompt + ended(tokenizer, row["completion"]) for prompt, row in zip(prompts, rows, strict=True)]
        tokens = _all_learned(encode(tokenizer, whole))
        return _without_prompts(tokens, encode(tokenizer, prompts)) if completions_only else tokens
    return _all_learned(encode(tokenizer, [ended(tokenizer, row["text"]) for row in rows]))


def encode(tokenizer: Any, texts: list[str], special: bool = True) -> list[list[int]]:
    """Convert texts to token ids, with or without the tokenizer's special tokens around a text."""
    if not _adds_nothing(tokenizer):
        return list(_encode_with_places(tokenizer, texts, special)["input_ids"])
    # The first call configures the backend tokenizer (no padding, no truncation). Called directly, the backend does not
    # compute offsets, which takes a third less time.
    _encode_with_places(tokenizer, texts[:1], special)
    encode = tokenizer.backend_tokenizer.encode_batch_fast
    batches = (texts[start : start + ROWS_ENCODED_TOGETHER] for start in range(0, len(texts), ROWS_ENCODED_TOGETHER))
    return [encoding.ids for batch in batches for encoding in encode(batch, add_special_tokens=special)]


def _adds_nothing(tokenizer: Any) -> bool:
    """Return whether a tokenizer only calls its backend; those of a few models change the result."""
    from transformers import PreTrainedTokenizerFast

    own = type(tokenizer)
    return issubclass(own, PreTrainedTokenizerFast) and all(
        getattr(own, name) is getattr(PreTrainedTokenizerFast, name) for name in ("__call__", "_encode_plus")
    )


def _encode_with_places(tokenizer: Any, texts: list[str], special: bool) -> Any:
    return tokenizer(
        texts, add_special_tokens=special, return_attention_mask=False, return_token_type_ids=False, verbose=False
    )


def ended(tokenizer: Any, text: str) -> str:
    """Append the end token to a text that does not end with it."""
    return text if text.endswith(tokenizer.eos_token) else text + tokenizer.eos_token


def _all_learned(rows: list[list[int]]) -> Tokens:
    ids, lengths = _flat(rows)
    return Tokens(ids, ids, lengths)


def _flat(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum())), lengths


def _without_prompts(tokens: Tokens, prompts: list[list[int]]) -> Tokens:
    """Mask the loss of the prompt: the leading tokens that it has in common with the whole text.

    The last tokens of a prompt may differ, because a token may span the boundary; then they are learned.
    """
    ids, lengths = _flat(prompts)
    shared = np.minimum(lengths, tokens.lengths)
    prompt_starts = np.concatenate(([0], np.cumsum(lengths)))[:-1]
    within = np.arange(shared.sum()) - np.repeat(np.cumsum(shared) - shared, shared)
    differ = (
        ids[within + np.repeat(prompt_starts, shared)] != tokens.ids[within + np.repeat(tokens.starts[:-1], shared)]
    )
    # The prompt ends at its first difference, or without one after all shared tokens.
    ends = shared.copy()
    np.minimum.at(ends, np.repeat(np.arange(len(shared)), shared)[differ], within[differ])
    place = np.arange(len(tokens.ids)) - np.repeat(tokens.starts[:-1], tokens.lengths)
    learned = place >= np.repeat(ends, tokens.lengths)
    return Tokens(tokens.ids, np.where(learned, tokens.ids, np.int32(NO_LOSS)), tokens.lengths)


def _assistant_turns(tokenizer: Any, rows: list[dict[str, Any]], template: str | None) -> Tokens:
    texts, spans = _render_marked(tokenizer, rows, template)
    known = spelling(tokenizer) if _adds_nothing(tokenizer) else None
    if known is None:
        encoded = _encode_with_places(tokenizer, texts, special=False)
        tokens = _all_learned(encoded["input_ids"])
        learned = np.zeros(len(tokens.ids), bool)
        _mark_where_told(learned, tokens.starts, encoded, texts, spans, range(len(rows)))
    else:
        numbers = encode(tokenizer, texts, special=False)
        tokens = _all_learned(numbers)
        learned = np.zeros(len(tokens.ids), bool)
        if left := mark(learned, known, numbers, tokens.ids, texts, spans):
            encoded = _encode_with_places(tokenizer, [texts[row] for row in left], special=False)
            _mark_where_told(learned, tokens.starts, encoded, texts, spans, left)
    return Tokens(tokens.ids, np.where(learned, tokens.ids, np.int32(NO_LOSS)), tokens.lengths)


def _mark_where_told(
    learned: np.ndarray, starts: np.ndarray, encoded: Any, texts: list[str], spans: list[list[Span]],
    rows: Iterable[int],
) -> None:  # fmt: skip
    """Mark the tokens of `rows` by the tokenizer's own offsets; `encoded` holds these rows in this order."""
    for position, row in enumerate(rows):
        for tokens in ranges_of(encoded.encodings[position].offsets, texts[row], spans[row]):
            learned[starts[row] + tokens.start : starts[row] + tokens.stop] = True


def _render(tokenizer: Any, rows: list[dict[str, Any]], template: str | None) -> list[str]:
    def render(batch: list[Any], tools: list[Any] | None) -> list[str]:
        return list(tokenizer.apply_chat_template(batch, tools=tools, chat_template=template, tokenize=False))

    return [text for texts in refusing(render, rows) for text in texts]


def _render_marked(
    tokenizer: Any, rows: list[dict[str, Any]], template: str | None
) -> tuple[list[str], list[list[Span]]]:
    """Render conversations; return the texts and the character spans that the template marks as the assistant's."""

    def render(batch: list[Any], tools: list[Any] | None) -> Any:
        chosen = tokenizer.get_chat_template(template, tools)
        return render_marked(batch, tools, chosen, **tokenizer.special_tokens_map)

    texts: list[str] = []
    spans: list[list[Span]] = []
    for rendered, marked in refusing(render, rows):
        texts += rendered
        spans += marked
    return texts, spans


def refusing(render: Callable[[list[Any], list[Any] | None], Any], rows: list[dict[str, Any]]) -> list[Any]:
    """Render adjacent rows with equal tools together; if the template refuses, find the rows and the reasons."""
    refusals = template_errors()
    groups = [(tools, list(members)) for tools, members in groupby(rows, key=_tools)]
    try:
        return [render([row["messages"] for row in members], tools) for tools, members in groups]
    except refusals:
        refused = {}
        for position, row in enumerate(rows):
            try:
                render([row["messages"]], _tools(row))
            except refusals as error:
                refused[position] = str(error) or type(error).__name__
        if not refused:
            raise
        raise RefusedRows(refused) from None


def _tools(row: dict[str, Any]) -> list[Any] | None:
    """Return the tools of a conversation, parsed if they are JSON text, as in TRL."""
    tools = row.get("tools")
    return from_json(tools) if isinstance(tools, str) else tools
