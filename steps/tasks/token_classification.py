"""Sentences as lists of words, with a tag for each word.

{"tokens": ["Ada", "Lovelace", "wrote"], "tags": ["B-PER", "I-PER", "O"]}
{"tokens": ["Ada", "wrote"], "tags": [1, 0]}                                   with tags="O,B-PER,I-PER"

In csv and tsv files a cell holds the list as JSON text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import pyarrow as pa

from steps.errors import nearest
from steps.params.task_columns import TokenColumns
from steps.tasks import Fault, OtherColumns, as_found, kind_of, missing_columns, named_by
from steps.tasks.rules.cells import Reader, broken_cell, from_cell, read_cell
from steps.tasks.rules.characters import is_blank, visible
from steps.tasks.rules.counting import Judgement, Tally
from steps.tasks.rules.labels import declared, judge_labels, names_in

Columns = TokenColumns
ASKED = ("tokens",)  # rows with the same words should have the same tags
KINDS = ("token_classification",)
DOES = "gives each word of a text its tag"
EXAMPLE = '["Ada Lovelace wrote to Charles Babbage"]'
CONVERSATIONS = False
UNFIT: dict[str, str] = {}

SCHEMA = pa.schema(
    [
        pa.field("tokens", pa.list_(pa.string()), nullable=False),
        pa.field("tags", pa.list_(pa.string()), nullable=False),
    ]
)


def columns_of(columns: TokenColumns) -> tuple[str, ...]:
    """Return the required columns."""
    return (columns.token_key, columns.tag_key)


def other_columns(columns: TokenColumns) -> OtherColumns:
    """Say which column holds classes."""
    return OtherColumns(classes=(columns.tag_key,))


def cells(columns: TokenColumns) -> dict[str, Reader]:
    """Return the columns that may hold lists as JSON text."""
    return dict.fromkeys((columns.token_key, columns.tag_key), read_cell)


def check_row(row: dict[str, Any], columns: TokenColumns) -> Iterator[Fault]:
    """Yield the errors in one row: values that are not lists, empty words, unknown tags, too few or too many tags."""
    lists = []
    for key, what in ((columns.token_key, "words"), (columns.tag_key, "tags")):
        values = row.get(key)
        if type(values) is not list:
            try:
                values = from_cell(values)
            except ValueError as error:
                yield broken_cell(key, row[key], error, f"a list of {what}")
                continue
        if type(values) is list:
            lists.append(values)
        elif key not in row:
            yield from missing_columns(row, named_by(columns, [key]))
        else:
            yield Fault("DATA-E1101", key, as_found(row[key]), f"a list of {what}, not {kind_of(values)}",
                        f'write it as a list: ["…", "…"], one text for each {what[:-1]}')  # fmt: skip
    if len(lists) < 2:
        return
    tokens, tags = lists
    if not tokens:
        yield Fault("DATA-E1102", columns.token_key, "[]", "at least one word", "fill it in, or remove the row")
    try:
        good = "" not in tokens and not any(map(str.isspace, tokens))
    except TypeError:
        good = False
    if not good:
        yield from _token_faults(tokens, columns.token_key)
    if len(tokens) != len(tags):
        yield Fault("DATA-E1104", columns.tag_key, f"{len(tags):,} tags for {len(tokens):,} words",
                    "one tag for each word", "correct the lists, or remove the row")  # fmt: skip
    listed = declared(columns.tags)
    if not (
        listed.keys() >= set(tags)
        if listed and _hashable(tags)
        else set(map(type, tags)) == {str} and all(map(visible, tags))
    ):
        yield from _tag_faults(tags, columns.tag_key, listed)


def remarks(row: dict[str, Any], columns: TokenColumns) -> Iterator[tuple[str, str]]:
    """Yield a warning for a chunk that starts with an I- tag, and the conversion of tag numbers."""
    tags = from_cell(row[columns.tag_key])
    if columns.tags and int in set(map(type, tags)):
        yield "DATA-F1101", "tag numbers were replaced by tag names"
        tags = _named(tags, columns)
    if any(_breaks(before, tag) for before, tag in set(zip(["O", *tags], tags, strict=False))):
        yield ("DATA-W1101", "an I- tag that does not follow a B- or I- tag of its type; seqeval counts it as the "
               "start of a new chunk")  # fmt: skip
    if not all(map(visible, from_cell(row[columns.token_key]))):
        yield ("DATA-W1102", "words without a visible character: most tokenizers have no token for them, and their tag "
               "is not learned")  # fmt: skip


def canonical(row: dict[str, Any], columns: TokenColumns) -> dict[str, Any]:
    """Keep words and tags; tag numbers are replaced by names.

    {"words": ["Ada"], "ner": [1], "id": 7} → {"tokens": ["Ada"], "tags": ["B-PER"]} with tags="O,B-PER"
    """
    tags = from_cell(row[columns.tag_key])
    return {
        "tokens": from_cell(row[columns.token_key]),
        "tags": _named(tags, columns) if columns.tags else tags,
    }


def training_row(row: dict[str, Any], columns: TokenColumns) -> dict[str, Any]:
    """Return the canonical row, which a tagger's trainer uses unchanged."""
    return row


def question(row: dict[str, Any], columns: TokenColumns) -> None:
    """Return None: the answer is a list of tags, not generated text."""
    return


def counted(row: dict[str, Any], columns: TokenColumns) -> set[str]:
    """Count the rows in which each tag occurs."""
    return set(row["tags"])


def judge(tallies: Mapping[str, Tally], columns: TokenColumns) -> Iterator[Judgement]:
    """Yield conclusions from the tags of all files: only one tag, unseen tags, similar tags, single rows."""
    yield from judge_labels(tallies, columns.tag_key, columns.tags, "tags")


def label_names(table: pa.Table, columns: TokenColumns | None = None) -> list[str]:
    """Return the tag list of canonical rows; a tag's index in it is its number.

    Pass the rows of all splits, because train may have no row with a tag. `columns` is needed if it lists the tags.
    """
    return names_in(table["tags"], columns.tags if columns else "")


def _named(tags: list[Any], columns: TokenColumns) -> list[str]:
    names = list(declared(columns.tags))
    return [names[tag] if type(tag) is int else tag for tag in tags]


@lru_cache(maxsize=4096)
def _breaks(before: str, tag: str) -> bool:
    return tag[:2] == "I-" and not (before[:2] in ("B-", "I-") and before[2:] == tag[2:])


def _token_faults(tokens: list[Any], key: str) -> Iterator[Fault]:
    for index, token in enumerate(tokens):
        if type(token) is not str:
            yield Fault("DATA-E1103", f"{key}[{index}]", as_found(token), f"text, not {kind_of(token)}",
                        "put the word in quotes")  # fmt: skip
        elif not token or token.isspace():
            yield Fault("DATA-E1103", f"{key}[{index}]", as_found(token), "a word that is not empty",
                        "remove the word and its tag")  # fmt: skip


def _tag_faults(tags: list[Any], key: str, listed: Mapping[str, None]) -> Iterator[Fault]:
    names = list(listed)
    for index, tag in enumerate(tags):
        path = f"{key}[{index}]"
        if type(tag) is int and not names:
            yield Fault("DATA-E1106", path, as_found(tag), "the name of a tag, not a number",
                        "list the names in the parameter tags, in the order of the numbers: O,B-PER,…")  # fmt: skip
        elif type(tag) is int:
            if not 0 <= tag < len(names):
                yield Fault("DATA-E1105", path, as_found(tag), f"a number from 0 to {len(names) - 1}",
                            "correct it, or add the missing names to tags")  # fmt: skip
        elif type(tag) is not str or is_blank(tag):
            yield Fault("DATA-E1106", path, as_found(tag), "the name of a tag", "write O for a word without a tag")
        elif names and tag not in listed:
            near = nearest(tag, names)
            yield Fault("DATA-E1105", path, as_found(tag), f"one of {', '.join(names)[:60]}",
                        f"{near} Or add it to tags" if near else "correct it, or add it to tags")  # fmt: skip


def _hashable(tags: list[Any]) -> bool:
    return set(map(type, tags)) <= {str, int}
