"""Prompts and answers as texts or messages, for preference, kto, grpo and verl."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from steps.params.chat_columns import MessageRules
from steps.tasks import Fault, as_found, kind_of
from steps.tasks.rules.characters import is_blank
from steps.tasks.rules.messages import forbidden_characters, message_faults, order_faults
from steps.tasks.rules.standard import UNLEARNED, from_cell_text, from_text, is_message, standard, without_marks

BROKEN_MESSAGES = re.compile(r"""\s*\[\s*\{\s*["'](?:role|from|content|value)["']\s*:""")
SUFFIX = "_messages"  # a column such as prompt_messages is used if prompt is absent
TEXT_TO_MESSAGE = ("DATA-F1501", "texts beside messages read as separate messages")
NO_MARKS = ("DATA-W1531", "messages marked as not learned: no effect, whole answers are compared or rewarded")
SEAM = ("DATA-W0601", "no space between the prompt and the text that follows: a token may span the boundary")


def stand_in(name: str) -> str:
    """Return the name of the column that is used if `name` is absent."""
    return name + SUFFIX


def key_in(row: Mapping[str, Any], name: str) -> str:
    """Return the name of a column in a row: its own, or that of its substitute."""
    return stand_in(name) if name not in row and stand_in(name) in row else name


def read_value(row: Mapping[str, Any], name: str, rules: MessageRules) -> tuple[Any, list[tuple[str, str]]]:
    """Return a text, or standard messages and the repairs made in them; any other value unchanged."""
    value = from_text(row.get(key_in(row, name)))
    if is_message(read := from_cell_text(value)):
        value = [read]
    if type(value) is not list:
        return value, []
    messages, repairs = standard(value, rules)
    return without_marks(messages), [NO_MARKS if note == UNLEARNED else note for note in repairs]


def value_faults(value: Any, path: str, rules: MessageRules) -> Iterator[Fault]:
    """Yield the errors in a text or in each message; `joint_faults` checks the order of messages."""
    if type(value) is list:
        yield from message_faults(value, path, rules)
    elif type(value) is str and BROKEN_MESSAGES.match(value):  # a list that could be read is no text any more
        yield Fault("DATA-E0442", path, as_found(value), "text, or a list of messages as JSON",
                    "write the cell with json.dumps, or correct it")  # fmt: skip
    else:
        yield from text_faults(value, path, "text or a list of messages")
        if rules.strict and type(value) is str:
            yield from forbidden_characters(value, path)


def text_faults(value: Any, path: str, expected: str = "text") -> Iterator[Fault]:
    """Yield the errors in a text."""
    if type(value) is not str:
        yield Fault("DATA-E0602", path, as_found(value), f"{expected}, not {kind_of(value)}",
                    "write the text itself, or remove the row")  # fmt: skip
    elif is_blank(value):
        yield Fault("DATA-E0603", path, as_found(value), "text that is not empty", "fill it in, or remove the row")


def truth_faults(value: Any, path: str) -> Iterator[Fault]:
    """Yield a fault for a ground truth that no answer can equal: NaN or infinity."""
    if type(value) is float and not math.isfinite(value):
        yield Fault("DATA-E1525", path, as_found(value), "the right answer, as text or as a number",
                    "fill it in, or remove the row")  # fmt: skip


def answer_faults(answer: list[Any], path: str) -> Iterator[Fault]:
    """Yield a fault if an answer in messages does not end with an assistant message."""
    roles = [str(message.get("role")) for message in answer if type(message) is dict]
    if roles[-1:] != ["assistant"]:
        yield Fault("DATA-E1504", path, f"roles {', '.join(roles)[:60]}" if roles else "no message after the prompt",
                    "an answer that ends with an assistant's turn", "add the answer, or remove the row")  # fmt: skip


def joint_faults(
    prompt: list[Any], prompt_key: str, answer: list[Any], key: str, rules: MessageRules, own_columns: bool
) -> Iterator[Fault]:
    """Yield errors in the order of the messages of a prompt and its answer, in separate columns or both in `key`."""
    for fault in order_faults(prompt + answer, key, rules):
        index = int(fault.column[len(key) + 1 :].partition("]")[0])
        place = f"{prompt_key}[{index}]" if index < len(prompt) else f"{key}[{index - len(prompt)}]"
        yield replace(fault, column=fault.column.replace(f"{key}[{index}]", place, 1)) if own_columns else fault


def as_question(value: Any) -> Any:
    """Convert a text to one user message."""
    return [{"role": "user", "content": value}] if type(value) is str else value


def as_answer(value: Any) -> Any:
    """Convert a text to one assistant message."""
    return [{"role": "assistant", "content": value}] if type(value) is str else value


def runs_together(prompt: str, answer: str) -> bool:
    """Return whether a token may span the boundary between a prompt and the text that follows."""
    return not (prompt[-1:].isspace() or answer[:1].isspace())
