"""Which of the forms that a row's columns allow is meant."""

from __future__ import annotations

from typing import Any

from steps.tasks import Fault
from steps.tasks.forms.converting import needs_reading, parsed
from steps.tasks.forms.table import CERTAIN_TALKS, Form


def is_talk(form: Form, row: dict[str, Any]) -> bool:
    """Return whether a column holds a conversation, and for pairs, one that is not inside both answers again."""
    talk = parsed(row[form.needs["talk"]])
    if type(talk) is not list and not (type(talk) is dict and needs_reading(talk)):
        return False
    given = parsed(row[form.needs["chosen"]]) if "chosen" in form.needs else None
    if type(given) is not list or not given or type(talk) is not list or not talk:
        return True
    return type(given[0]) is dict and given[0] != talk[0]


def asks(form: Form) -> bool:
    """Return whether a form has a question or certainly a conversation."""
    return "ask" in form.needs or form.needs.get("talk") in CERTAIN_TALKS


def is_no_talk(form: Form, row: dict[str, Any]) -> bool:
    """Return whether a column is a conversation by its name only, such as a text called data."""
    return "talk" in form.needs and form.needs["talk"] not in CERTAIN_TALKS and not is_talk(form, row)


def outdoes(other: Form, form: Form) -> bool:
    """Return whether the answer of a form with an unusual answer's column belongs to another form."""
    if other.second or "answer" not in other.needs:
        return False
    return other.needs["answer"] == form.needs["answer"] or other.needs.get("ask") != form.needs["ask"]


def two_forms(forms: list[Form]) -> Fault:
    """Return the fault of a row with the columns of several forms."""
    names = list(dict.fromkeys(form.name for form in forms))
    columns = " and ".join(f"{form.title} ({', '.join(form.needs.values())})" for form in forms[:2])
    fix = f"set row_form={names[0]} or {names[1]}" if len(names) > 1 else "remove one of the answer columns"
    return Fault("DATA-E0612", next(iter(forms[0].needs.values())), f"the columns of two forms: {columns}",
                 "the columns of one form", f"{fix}, or remove the columns that are not meant")  # fmt: skip
