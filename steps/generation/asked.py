"""What the texts among the decoding parameters ask for: end tokens, and the form of answers.

Nothing here loads torch or an engine, so that the plan can check the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from steps.errors import Problem, UserError, shown
from steps.params.generation import DecodingParams
from steps.params.patterns import fault_of

LONGEST_ID = 10  # digits
FORMS = ("json_schema", "regex", "choices")


@dataclass(frozen=True)
class Form:
    """The form that every answer must have."""

    kind: Literal["json_schema", "regex", "choices"]
    value: Any
    """An object (a JSON schema), a text (a regular expression), or a list of texts."""


def end_tokens_asked(decoding: DecodingParams) -> tuple[list[int], list[str]]:
    """Return the further end tokens: those given by id, and those given as texts."""
    given = [one.strip() for one in decoding.eos_tokens.split(",") if one.strip()]
    return [int(one) for one in given if is_number(one)], [one for one in given if not is_number(one)]


def is_number(text: str) -> bool:
    """Return whether a text is the id of a token; what no vocabulary counts to is a text."""
    return text.isdecimal() and len(text) <= LONGEST_ID


def form_of(decoding: DecodingParams) -> Form | None:
    """Return the form of the answers; None if they are free. Raises UserError if it cannot be read."""
    if not decoding.response_format:
        return None
    if problems := list(form_problems(decoding)):
        raise UserError(problems)
    ((kind, value),) = json.loads(decoding.response_format).items()
    return Form(kind, value)


def form_problems(decoding: DecodingParams) -> Iterator[Problem]:
    """Yield what is wrong with `response_format`."""
    if not decoding.response_format:
        return
    try:
        given = json.loads(decoding.response_format)
        json.dumps(given, ensure_ascii=False).encode()  # half of a surrogate pair cannot be sent
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict) or len(given) != 1 or next(iter(given)) not in FORMS:
        yield Problem("PLAN-E0442", "response_format", shown(decoding.response_format),
                      f"a JSON object with one of the keys {', '.join(FORMS)}",
                      'write it as {"choices": ["yes", "no"]}')  # fmt: skip
        return
    ((kind, value),) = given.items()
    expected = {"json_schema": "a JSON schema, which is an object", "regex": "a regular expression, which is a text",
                "choices": "a list of different texts"}[kind]  # fmt: skip
    if found := _form_fault(kind, value):
        yield Problem("PLAN-E0442", f"response_format.{kind}", found, expected, "correct it")


def _form_fault(kind: str, value: Any) -> str:
    """Describe what is wrong with the value of a form; empty if nothing is."""
    if kind == "json_schema":
        return "" if isinstance(value, dict) else shown(value)
    if kind == "choices":
        texts = isinstance(value, list) and value and all(isinstance(one, str) and one for one in value)
        return "" if texts and len(set(value)) == len(value) else shown(value)
    if not isinstance(value, str) or not value:
        return shown(value)
    fault = fault_of(value)
    return f"{shown(value)}: {fault}" if fault else ""
