"""Mask the loss of messages that are marked as not learned: {"role": "assistant", "content": "wrong", "weight": 0}.

A message is found in the rendered conversation by rendering it once more with another text in its place: what differs
is the message. This works for every template, with and without marks of the answers. With the loss on answers only, the
whole answer is masked, with the token that ends it; with the loss on everything, the message's text and the special
token right after it.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from steps.errors import Problem, UserError
from steps.prepare_data.write.tokenising import NO_LOSS, RefusedRows, Tokens, template_errors
from steps.tasks.rules.standard import REASONING

OTHER_TEXT = "\ue000"  # a private character, which no message and no template starts or ends with


def mask_unlearned(
    tokens: Tokens, tokenizer: Any, rows: list[dict[str, Any]], template: str | None, completions_only: bool
) -> Tokens:
    """Mask the messages that `unlearned` of a row lists; `tokens` are those of the rows.

    Raises RefusedRows if the template refuses the other text, and UserError for a tokenizer without offsets.
    """
    marked = [number for number, row in enumerate(rows) if row.get("unlearned")]
    if not marked:
        return tokens
    if not tokenizer.is_fast:
        raise UserError(
            Problem("DATA-E0809", "messages", "a tokenizer without tokenizer.json, and messages that are not learned",
                    "a fast tokenizer, which maps characters to tokens", "convert the tokenizer, or remove the marks")
        )  # fmt: skip
    labels = tokens.labels.copy()
    for number in marked:
        start, stop = tokens.starts[number], tokens.starts[number + 1]
        rendered = _Rendered(tokenizer, rows[number], template, number)
        offsets = rendered.offsets
        for position in rows[number]["unlearned"]:
            hidden = _hidden(rendered, position, labels[start:stop], completions_only, offsets)
            labels[start:stop][hidden] = NO_LOSS
    return Tokens(tokens.ids, labels, tokens.lengths)


class _Rendered:
    """One rendered conversation, and the place of each message in it."""

    def __init__(self, tokenizer: Any, row: dict[str, Any], template: str | None, number: int):
        self.tokenizer, self.row, self.template, self.number = tokenizer, row, template, number
        self.text = self._render(row["messages"])

    @cached_property
    def encoded(self) -> Any:
        """The tokens of the text with their offsets."""
        return self.tokenizer(self.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)

    @property
    def offsets(self) -> np.ndarray:
        """Start and end of each token's characters, shape (tokens, 2)."""
        return np.array(self.encoded["offset_mapping"], np.int64).reshape(-1, 2)

    def place(self, position: int) -> tuple[int, int]:
        """Return start and end of a message's own text; equal if the template does not write it."""
        messages = list(self.row["messages"])
        messages[position] = _with_other_text(messages[position])
        other = self._render(messages)
        if other == self.text:
            return 0, 0
        start = _common(self.text, other)
        most = min(len(self.text), len(other)) - start
        end = len(self.text) - min(_common(self.text[::-1], other[::-1]), most)
        return start, end

    def _render(self, messages: list[dict[str, Any]]) -> str:
        tools = self.row.get("tools")
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tools=tools, chat_template=self.template, tokenize=False
            )
        except template_errors() as error:
            raise RefusedRows({self.number: f"{error}, with another text for a message that is not learned"}) from None
        return str(text)


def _hidden(
    rendered: _Rendered, position: int, labels: np.ndarray, completions_only: bool, offsets: np.ndarray
) -> np.ndarray:
    """Return which tokens of a conversation a message that is not learned hides, bool."""
    start, end = rendered.place(position)
    inside = (offsets[:, 0] < end) & (np.maximum(offsets[:, 1], offsets[:, 0] + 1) > start)
    if not inside.any():
        return inside
    first, last = np.flatnonzero(inside)[[0, -1]].tolist()
    if not completions_only:
        ids = rendered.encoded["input_ids"]
        follows = last + 1 < len(ids) and ids[last + 1] in rendered.tokenizer.added_tokens_decoder
        if follows and not rendered.text[end : offsets[last + 1, 0]].strip():
            inside[last + 1] = True
        return inside
    # The learned tokens around the text belong to the same answer, up to the messages before and after it.
    messages = rendered.row["messages"]
    lowest = rendered.place(position - 1)[1] if position else 0
    highest = rendered.place(position + 1)[0] if position + 1 < len(messages) else len(rendered.text)
    while first and labels[first - 1] != NO_LOSS and offsets[first - 1, 0] >= lowest:
        first -= 1
    while last + 1 < len(labels) and labels[last + 1] != NO_LOSS and offsets[last + 1, 0] < max(highest, end):
        last += 1
    inside[first : last + 1] = True
    return inside


def _with_other_text(message: dict[str, Any]) -> dict[str, Any]:
    """Replace every text of a message that a template may write."""
    made = {**message}
    for key in ("content", *REASONING):
        if message.get(key):
            made[key] = OTHER_TEXT
    if message.get("tool_calls"):
        function = {"name": OTHER_TEXT, "arguments": {OTHER_TEXT: OTHER_TEXT}}
        made["tool_calls"] = [{"type": "function", "function": function, **function} for _ in message["tool_calls"]]
    return made


def _common(one: str, other: str) -> int:
    """Return the length of the common start of two texts."""
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
        return length
    low, high = 0, length
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle)
    return low
