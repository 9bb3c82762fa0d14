"""How a parameter looks as an input of a pipeline: its KFP type, default and choices.

`kfp run create NAME=VALUE` sends what looks like a number, true or false as that, and the backend refuses it where a
text is declared. So a choice of whole numbers (precision, deepspeed_stage) is a number there, and a text that may be
true or false has the words on and off. The plan gets the values of the parameter model again (`our_value`).
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from steps.params.reading import choices_of, default_of

KFP_TYPES = (str, int, float, bool, dict, list)
WORDS = {"true": "on", "false": "off"}


def kfp_type(field: FieldInfo) -> type:
    """Return the KFP parameter type of a field. Raises TypeError if KFP has none."""
    kind: Any = field.annotation
    if get_origin(kind) is Literal:
        kind = int if _counts(field) else type(get_args(kind)[0])
    kind = get_origin(kind) or kind
    if kind not in KFP_TYPES:
        raise TypeError(f"{kind} is not a KFP parameter type: use one of {', '.join(t.__name__ for t in KFP_TYPES)}")
    return kind


def kfp_value(field: FieldInfo, value: Any) -> Any:
    """Return a value of the parameter model as KFP gets it."""
    if _counts(field):
        return int(value)
    return WORDS.get(value, value) if _switches(field) and isinstance(value, str) else value


def our_value(field: FieldInfo, value: Any) -> Any:
    """Return a value that KFP passes as the parameter model has it."""
    if _counts(field):
        return f"{value:g}" if isinstance(value, int | float) else value
    back = {word: plain for plain, word in WORDS.items()}
    return back.get(value, value) if _switches(field) and isinstance(value, str) else value


def kfp_choices(field: FieldInfo) -> list[Any]:
    """Return the values that a drop-down offers; empty for a parameter that is no closed choice."""
    if field.annotation is bool:
        return [True, False]
    return [kfp_value(field, choice) for choice in choices_of(field)]


@cache  # asked for every input at every look at the values of a run
def _counts(field: FieldInfo) -> bool:
    """Whether a closed choice has only whole numbers."""
    choices = choices_of(field)
    return bool(choices) and all(str(choice).isdecimal() for choice in choices)


@cache
def _switches(field: FieldInfo) -> bool:
    """Whether a text may be true or false."""
    texts = [text for text in (*choices_of(field), default_of(field)) if isinstance(text, str)]
    return any(text in WORDS for text in texts)
