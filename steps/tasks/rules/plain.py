"""A fast check that recognises rows that are certainly valid, in blocks.

Most rows of most files have only the task's own columns, of the right types. Such rows are decoded directly into small
structs and checked with a few C calls per block, several times faster than one by one. All other rows are checked by
the task: a reader in this file may only answer "certainly valid" or "unknown", never "invalid", and a row that it
accepts must be valid for the task too (tests/steps/test_plain.py compares the two).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, pairwise
from operator import attrgetter
from typing import Any, Literal, Protocol

import msgspec
import pyarrow as pa

from steps.params.group import Group
from steps.tasks import load_task
from steps.tasks.rules.characters import visible
from steps.tasks.rules.likeness import outline_of


@dataclass
class PlainRows:
    """A block of valid rows."""

    strings: int
    """Number of strings (keys and values) in all objects: the text has more if it repeats a key."""
    fingerprints: list[int]
    """`steps.tasks.likeness.fingerprint` of each row."""
    outlines: list[int]
    """`steps.tasks.likeness.outline` of each row."""
    canonical: Callable[[], pa.RecordBatch]
    """Builds the canonical rows."""


class PlainReader(Protocol):
    """Reads plain rows of one task."""

    decoder: msgspec.json.Decoder[Any]

    def read(self, rows: list[Any]) -> PlainRows | None:
        """Check decoded rows; None if any of them needs the full check."""


def plain_reader(task: str, columns: Group) -> PlainReader | None:
    """Return the reader for a task's plain rows; None if there is none."""
    values = columns.model_dump()
    if task == "chat_completion" and not values["role_map"] and values["row_form"] in ("auto", "off"):
        return PlainChats(values["messages_key"])
    if task == "text_generation" and values["text_key"] != values["ground_truth_key"]:
        return PlainTexts(values["text_key"], values["ground_truth_key"], values["text_separator"])
    return None


STRICT: dict[str, Any] = {"gc": False, "forbid_unknown_fields": True}


class Message(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A message with only role and content."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


ROLE, CONTENT = attrgetter("role"), attrgetter("content")


class PlainChats:
    """Conversations of plain messages."""

    def __init__(self, messages_key: str):
        row = msgspec.defstruct("Row", [("messages", list[Message])], rename={"messages": messages_key}, **STRICT)
        self.decoder = msgspec.json.Decoder(row)
        self.messages = attrgetter("messages")
        self.good_orders: set[tuple[str, ...]] = set()

    def read(self, rows: list[Any]) -> PlainRows | None:
        """Check conversations: a valid order of roles, at least one answer, no empty content."""
        all_messages = list(map(self.messages, rows))
        all_roles = [tuple(map(ROLE, messages)) for messages in all_messages]
        all_texts = [tuple(map(CONTENT, messages)) for messages in all_messages]
        for order in set(all_roles) - self.good_orders:
            if not _is_good_order(order):
                return None
            self.good_orders.add(order)
        texts = list(chain.from_iterable(all_texts))
        if not all(map(visible, texts)):
            return None
        return PlainRows(
            4 * len(texts) + len(rows),
            list(map(hash, zip(all_roles, all_texts, strict=True))),
            [outline_of(texts[-2] if len(texts) > 1 else "", texts[-1]) for texts in all_texts],
            lambda: _chat_batch(all_roles, all_texts),
        )


class PlainTexts:
    """Texts, or prompts with completions."""

    def __init__(self, text_key: str, ground_truth_key: str, separator: str):
        self.separator = separator
        names = {"text": text_key, **({"truth": ground_truth_key} if ground_truth_key else {})}
        row = msgspec.defstruct("Row", [(name, str) for name in names], rename=names, **STRICT)
        self.decoder = msgspec.json.Decoder(row)
        self.values = [attrgetter(name) for name in names]

    def read(self, rows: list[Any]) -> PlainRows | None:
        """Check texts: none empty, a space between prompt and answer."""
        texts, *truths = (list(map(value, rows)) for value in self.values)
        if not all(map(visible, texts)):
            return None
        if not truths:
            prints = [hash((text, None)) for text in texts]
            outlines = [outline_of("", text) for text in texts]
            return PlainRows(2 * len(rows), prints, outlines, lambda: self._batch(texts, [None] * len(rows)))
        [answers] = truths
        prompts = [text + self.separator for text in texts]
        if not all(map(visible, answers)):
            return None
        if not all(p[-1].isspace() or a[0].isspace() for p, a in zip(prompts, answers, strict=True)):
            return None
        pairs = list(zip(prompts, answers, strict=True))
        outlines = [outline_of(prompt, answer) for prompt, answer in pairs]
        return PlainRows(4 * len(rows), list(map(hash, pairs)), outlines, lambda: self._batch(prompts, answers))

    def _batch(self, texts: list[str], truths: list[Any]) -> pa.RecordBatch:
        schema = load_task("text_generation").SCHEMA
        return pa.RecordBatch.from_pydict({"text": texts, "ground_truth": truths}, schema=schema)


def _is_good_order(roles: tuple[str, ...]) -> bool:
    return (
        roles[-1:] == ("assistant",)  # any other last message is worth a warning
        and "tool" not in roles  # valid only after a call, and a message with a call is not plain
        and "system" not in roles[1:]
        and not any(first == second == "user" for first, second in pairwise(roles))
    )


def _chat_batch(all_roles: list[tuple[str, ...]], all_texts: list[tuple[str, ...]]) -> pa.RecordBatch:
    schema = load_task("chat_completion").SCHEMA
    roles = pa.array([role for roles in all_roles for role in roles], pa.string())
    texts = pa.array([text for texts in all_texts for text in texts], pa.string())
    offsets = [0]
    for row in all_roles:
        offsets.append(offsets[-1] + len(row))
    kind = schema.field("messages").type
    members = [roles, texts] + [pa.nulls(len(roles), field.type) for field in list(kind.value_type)[2:]]
    structs = pa.StructArray.from_arrays(members, fields=list(kind.value_type))
    messages = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), structs, type=kind)
    others = [pa.nulls(len(all_roles), field.type) for field in schema if field.name != "messages"]
    return pa.RecordBatch.from_arrays([messages, *others], schema=schema)
