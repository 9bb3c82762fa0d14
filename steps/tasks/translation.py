"""Texts and their translations; the column names are the languages.

{"en": "cat", "de": "Katze"}
{"translation": {"en": "cat", "de": "Katze"}}      with translation_key="translation"; in csv the object is JSON text
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from steps.errors import Problem, nearest
from steps.kinds.models.seq2seq_lm import TOLD_WHAT_TO_DO
from steps.kinds.models.unfit import NO_CHAT
from steps.kinds.recipe import Recipe
from steps.params.task_columns import USUAL_PREFIX, TranslationColumns
from steps.tasks import Fault, as_found, kind_of, missing_columns, named_by
from steps.tasks.rules.cells import Reader, broken_cell, from_cell, read_cell, text_faults
from steps.tasks.rules.characters import collapsed
from steps.tasks.rules.counting import Judgement, Tally
from steps.tasks.rules.written import steering_problems

Columns = TranslationColumns
KINDS = ("causal_lm", "seq2seq_lm")
DOES = "translates texts"
EXAMPLE = '"cat"'
CONVERSATIONS = False
UNFIT = dict.fromkeys(("chat_template", "add_template_tokens"), NO_CHAT)

SCHEMA = pa.schema([pa.field("source", pa.string(), nullable=False), pa.field("target", pa.string(), nullable=False)])

# Names of the languages in the prompts that T5 was trained with; for other languages the code is used.
LANGUAGES = {"en": "English", "fr": "French", "de": "German", "ro": "Romanian"}
MOST_EQUAL = 0.05  # names and numbers are equal in both languages; a larger share means untranslated text


def columns_of(columns: TranslationColumns) -> tuple[str, ...]:
    """Return the required columns."""
    return (columns.translation_key,) if columns.translation_key else (columns.source_lang, columns.target_lang)


def cells(columns: TranslationColumns) -> dict[str, Reader]:
    """Return the column that may hold both texts as JSON text."""
    return {columns.translation_key: read_cell} if columns.translation_key else {}


def check_row(row: dict[str, Any], columns: TranslationColumns) -> Iterator[Fault]:
    """Yield the errors in one row: a missing column or language, another type, empty text."""
    key = columns.translation_key
    if not key:
        yield from text_faults(row, (columns.source_lang, columns.target_lang), columns)
        return
    if key not in row:
        yield from missing_columns(row, named_by(columns, [key]))
        return
    try:
        pair = from_cell(row[key])
    except ValueError as error:
        yield broken_cell(key, row[key], error, "an object with both texts")
        return
    if type(pair) is not dict:
        yield Fault("DATA-E1402", key, as_found(row[key]), f"an object with both texts, not {kind_of(pair)}",
                    f'write it as {{"{columns.source_lang}": …, "{columns.target_lang}": …}}')  # fmt: skip
        return
    for parameter in ("source_lang", "target_lang"):
        language = getattr(columns, parameter)
        if language not in pair:
            near = nearest(language, pair)
            yield Fault("DATA-E1401", f"{key}.{language}", f"the languages {', '.join(map(str, pair))[:60] or 'none'}",
                        f"the language {language}", f"{near} Set {parameter} to it" if near else
                        f"add it, or set {parameter} to the name that the file uses")  # fmt: skip
        else:
            for fault in text_faults(pair, (language,), columns):
                yield Fault(fault.code, f"{key}.{language}", fault.found, fault.expected, fault.fix)


def remarks(row: dict[str, Any], columns: TranslationColumns) -> Iterator[tuple[str, str]]:
    """Yield nothing: equal texts are reported only if there are many (see `judge`)."""
    return iter(())


def canonical(row: dict[str, Any], columns: TranslationColumns) -> dict[str, Any]:
    """Keep both texts: {"en": "cat", "de": "Katze", "id": 7} → {"source": "cat", "target": "Katze"}."""
    pair = from_cell(row[columns.translation_key]) if columns.translation_key else row
    return {"source": pair[columns.source_lang], "target": pair[columns.target_lang]}


def training_row(row: dict[str, Any], columns: TranslationColumns) -> dict[str, Any]:
    """Name the parts as TRL does: {"prompt": "translate English to German: cat\\n", "completion": "Katze"}."""
    before, after = prompt_form(columns)
    return {"prompt": before + row["source"] + after, "completion": row["target"]}


def question(row: dict[str, Any], columns: TranslationColumns) -> tuple[str, str]:
    """Return the prompt with the text, and the reference translation."""
    before, after = prompt_form(columns)
    return before + row["source"] + after, row["target"]


def prompt_form(columns: TranslationColumns) -> tuple[str, str]:
    """Return the prompt's text before and after the source text."""
    source, target = (LANGUAGES.get(code, code) for code in (columns.source_lang, columns.target_lang))
    before = f"translate {source} to {target}: " if columns.prompt_prefix == USUAL_PREFIX else columns.prompt_prefix
    return before, columns.after_text


def counted(row: dict[str, Any], columns: TranslationColumns) -> tuple[str, ...]:
    """Count the rows in which both texts are equal."""
    return ("equal",) if collapsed(row["source"]) == collapsed(row["target"]) else ()


def judge(tallies: Mapping[str, Tally], columns: TranslationColumns) -> Iterator[Judgement]:
    """Warn of a file in which more than 5 % of the texts equal their translation."""
    for split, tally in tallies.items():
        equal = tally.counts["equal"]
        if equal > MOST_EQUAL * tally.rows:
            share = f"{100 * equal / tally.rows:.1f} %"
            told = Fault("DATA-W1401", "", f"{columns.source_lang} and {columns.target_lang} are the same text in "
                         f"{share} of the rows", "", "")  # fmt: skip
            yield Judgement(split, told, equal, tuple(tally.records["equal"]))


def model_problems(p: Any, recipe: Recipe, config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what this model cannot be asked for: a metric of texts while it trains, a language unknown to T5."""
    yield from steering_problems(p.metric_for_best_model, recipe)
    if recipe.kind.has_encoder and config.get("model_type") in TOLD_WHAT_TO_DO and p.prompt_prefix == USUAL_PREFIX:
        for name in ("source_lang", "target_lang"):
            if (language := getattr(p, name)) not in LANGUAGES:
                yield Problem("PLAN-E0313", name, f"{language} with a T5",
                              f"one of {', '.join(LANGUAGES)}, which it was trained to translate",
                              'set prompt_prefix to words of your own, such as "translate: "')  # fmt: skip
