"""Find the form of each row, and read it as a row with the task's own columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from steps.errors import Problem, UserError
from steps.params.group import Group, default_in
from steps.tasks import MISSING, Fault, OtherColumns, as_found, missing_columns
from steps.tasks.forms.choosing import asks, is_no_talk, is_talk, outdoes, two_forms
from steps.tasks.forms.converting import (
    Origin,
    Talk,
    answer,
    earlier_turns,
    is_empty,
    is_transcript,
    needs_reading,
    parsed,
    question,
    transcript,
    turns,
    with_system,
)
from steps.tasks.forms.table import (
    DECLARED,
    FUNCTIONS,
    PAIR,
    SHAREGPT,
    STANDS_FOR,
    SYSTEM,
    Form,
    forms_of,
)
from steps.tasks.rules.standard import SHAREGPT_ROLES

RENAMING = "the name that the file uses"  # how the fix of a missing column ends if no other column is like it
READ_AS = "DATA-F0611"  # rows in a form that is not the declared one
PLACE = re.compile(r"^(?P<column>[^\[.]+)(?:\[(?P<number>\d+)\])?(?P<rest>.*)$", re.DOTALL)


@dataclass(frozen=True)
class ReadRow:
    """A row with the task's own columns, made from a row in another form."""

    row: dict[str, Any]
    form: Form
    origins: dict[str, list[Origin]]
    """Own column → the origin of each of its messages."""
    notes: tuple[tuple[str, str], ...] = ()
    """What is told of the row, as (code, sentence)."""
    unused: tuple[str, ...] = ()
    """Columns, and keys of turns, that are not read."""
    fault: Fault | None = None
    """Why the row cannot be read."""

    def told(self, fault: Fault) -> Fault:
        """Return a fault of the row under the name of the user's own column."""
        match = PLACE.match(fault.column)
        origins = self.origins.get(match["column"]) if match else None
        if not match or not origins:
            return fault
        if match["number"] is None:
            return replace(fault, column=re.split(r"[\[.]", origins[0].path)[0] + match["rest"])
        origin = origins[min(int(match["number"]), len(origins) - 1)]
        rest = re.sub(r"^\.(content|role)$", "", match["rest"]) if origin.is_text else match["rest"]
        return replace(fault, column=origin.path + rest)


class RowReader:
    """Reads the rows of one task; rows with the declared columns stay unchanged."""

    def __init__(self, task: str, columns: Group):
        self.task, self.columns = task, columns
        row_form = str(columns.row_form)  # type: ignore[attr-defined]
        forms = forms_of(task, columns)
        names = list(dict.fromkeys(form.name for form in forms if form.name != DECLARED))
        own = [form for form in forms if form.name == DECLARED]
        explicit = any(getattr(columns, name) != default_in(type(columns), name) for name in STANDS_FOR[task])
        self.forced = row_form if row_form in names else ""
        if row_form == "off" or explicit:
            forms = own
        elif self.forced:
            # The declared columns may hold a conversation in this form, too.
            talks = [form for form in own if row_form == "sharegpt" and "talk" in form.needs]
            forms = [Form(*SHAREGPT, form.needs, form.may) for form in talks]
            forms += [form for form in forms_of(task, columns) if form.name == row_form]
        elif row_form != "auto" and not (task == "kto" and row_form == "prompt_completion"):
            raise UserError(
                Problem("DATA-E0617", "row_form", f"{row_form} for rows of {task}", f"auto, off, {', '.join(names)}",
                        "set it to one of them")
            )  # fmt: skip
        self.forms = forms
        self._by_keys: dict[tuple[str, ...], list[Form]] = {}

    def read(self, row: dict[str, Any]) -> ReadRow | None:
        """Return the row with the task's own columns; None if it has them already, or has no known form."""
        possible = self._possible(row)
        if not possible:
            return self._without_form(row) if self.forced else None
        found = [form for form in possible if self._is_complete(form, row)]
        if not found:  # the checks of the messages say what is missing; a text called data is no conversation
            found = [form for form in possible if self.forced or form.name == DECLARED or not is_no_talk(form, row)]
            found = self._widest([form for form in found if form.name != "hh" and PAIR not in form.needs], row)[:1]
            if not found:
                return None
        found = self._widest(found, row)
        own = next((form for form in found if form.name == DECLARED), None)
        if own is None and len(found) > 1 and not self.forced:
            return ReadRow(row, found[0], {}, fault=two_forms(found))
        form = own or found[0]
        return _READERS[self.task](self, form, row)

    def hints(self, faults: Iterable[Fault], present: Iterable[str]) -> list[Fault]:
        """Add to faults of missing columns the forms that are known, and the one that the row nearly has."""
        faults, others = list(faults), [form for form in self.forms if form.name != DECLARED]
        absent = [fault for fault in faults if fault.code == MISSING]
        if not absent or not others:
            return faults
        known: dict[str, str] = {}
        for form in others:
            known.setdefault(form.name, f"{form.name} ({', '.join(form.needs.values())})")
        forms = f"or those of another form: {', '.join(known.values())}"
        near = self._nearly(set(present), others)
        if near and all(fault.fix.startswith("set ") and fault.fix.endswith(RENAMING) for fault in absent):
            form, missing = near
            fix = f"for {form.title} rows, add the column {missing!r}; or {absent[0].fix}"
            absent = [replace(absent[0], column=missing, fix=fix)]  # one message for all columns that are missing
        others_of_row = [fault for fault in faults if fault.code != MISSING]
        return [*(replace(fault, expected=f"{fault.expected}, {forms}") for fault in absent), *others_of_row]

    def _possible(self, row: dict[str, Any]) -> list[Form]:
        keys = tuple(row)
        found = self._by_keys.get(keys)
        if found is None:
            found = [form for form in self.forms if form.required <= row.keys()]
            if len(self._by_keys) < 1000:  # rows whose keys all differ must not fill the memory
                self._by_keys[keys] = found
        return found

    def _is_complete(self, form: Form, row: dict[str, Any]) -> bool:
        """Return whether a row has a value in every column of a form, and values that fit it."""
        for part, name in form.needs.items():
            empty = is_empty(row[name]) or row[name] == []
            if empty and not (part == "ask" and not is_empty(row.get(form.may.get("beside", "")))):
                return False
        if form.name == DECLARED:
            # Two texts have a common start, which is no prompt if there is a column for it.
            alone = "prompt" in form.may and all(type(row[name]) is str for name in form.needs.values())
            return not alone or not any(asks(other) for other in self._possible(row))
        if form.name == "hh":
            return all(is_transcript(row[name]) for name in form.needs.values())
        if "talk" in form.needs:
            return is_talk(form, row)
        if PAIR in form.needs:
            return type(parsed(row[form.needs[PAIR]])) is list
        if form.name == "openai":
            given = parsed(row[form.needs["input"]])
            return type(given) is dict and "messages" in given
        return True

    def _widest(self, forms: list[Form], row: dict[str, Any]) -> list[Form]:
        """Return the forms whose columns are not all columns of another one; of equal ones, the first."""
        used: dict[int, frozenset[str]] = {}
        for number, form in enumerate(forms):
            beside = form.may.get("beside", "")
            columns = form.required | ({beside} if not is_empty(row.get(beside)) else set())
            if columns not in used.values() or form.name == "hh":
                used[number] = columns
        kept = [forms[n] for n, own in used.items() if not any(own < other for other in used.values())]
        kept = [form for form in kept if not (form.second and any(outdoes(other, form) for other in kept))]
        return [form for form in kept if form.name == "hh"] or kept

    def _nearly(self, present: set[str], forms: list[Form]) -> tuple[Form, str] | None:
        """Return the form of which only one column is missing, and that column."""
        near = [
            form
            for form in forms
            if len(form.needs) > 1 and PAIR not in form.needs and len(form.required - present) == 1
        ]
        if not near:
            return None
        best = max(near, key=lambda form: len(form.required & present) + (form.may.get("beside") in present))
        [missing] = best.required - present
        return best, missing

    def _without_form(self, row: dict[str, Any]) -> ReadRow:
        form = min(self.forms, key=lambda form: len(form.required - row.keys()))
        absent = [name for name in form.needs.values() if name not in row]
        found = ", ".join(map(repr, row))[:80] or "none"
        fault = Fault("DATA-E0618", absent[0], f"the columns {found}", f"a column {absent[0]!r}, as row_form="
                      f"{self.forced} says", "add the column, or set row_form=auto")  # fmt: skip
        return ReadRow(row, form, {}, fault=fault)


class FormColumns(OtherColumns):
    """The columns of a table whose rows may have another form than the declared one."""

    def __init__(self, reader: RowReader, own: OtherColumns):
        super().__init__(own.optional, own.instead, own.classes, own.raw)
        object.__setattr__(self, "reader", reader)

    def in_place(self, wanted: Mapping[str, str], present: Collection[str]) -> dict[str, str]:
        """Return the columns of the declared form if the table has them, else those of another form that it has."""
        own = super().in_place(wanted, present)
        if all(name in present for name in own.values()):
            return own
        whole = [form for form in self._forms if form.required <= set(present)]
        return {name: name for name in whole[0].needs.values()} if whole else own

    def used(self, wanted: Mapping[str, str], present: Iterable[str]) -> list[str]:
        """Return the columns of every form that the table has completely."""
        present = list(present)
        names = set(super().used(wanted, present))
        for form in self._forms:
            if form.required <= set(present):
                names |= {*form.needs.values(), *form.may.values()}
        return [name for name in dict.fromkeys(present) if name in names]

    def missing(self, present: Iterable[str], wanted: Mapping[str, str]) -> Iterator[Fault]:
        """Yield a fault for every missing column, with the forms that are known."""
        present = list(present)
        yield from self.reader.hints(missing_columns(present, wanted), present)  # type: ignore[attr-defined]

    @property
    def _forms(self) -> list[Form]:
        return self.reader.forms  # type: ignore[attr-defined]


def row_reader(task: str, columns: Group) -> RowReader | None:
    """Return the reader of a task's rows; None if they have one form only. Raises UserError for a form of others."""
    return RowReader(task, columns) if task in STANDS_FOR else None


def _read_chat(reader: RowReader, form: Form, row: dict[str, Any]) -> ReadRow | None:
    columns: Any = reader.columns
    own = form.name == DECLARED
    functions = columns.tools_key not in row and not is_empty(row.get(FUNCTIONS))
    if own and not needs_reading(row[form.needs["talk"]]) and not _has_system(row) and not functions:
        return None
    talk = _talk(form, row)
    if "answer" in form.needs:
        talk.extend(answer(row[form.needs["answer"]], form.needs["answer"]))
    made = {columns.messages_key: talk.messages}
    if columns.tools_key in row or functions:
        made[columns.tools_key] = row[FUNCTIONS if functions else columns.tools_key]
    return _made(made, form, {columns.messages_key: talk}, row)


def _read_pair(reader: RowReader, form: Form, row: dict[str, Any]) -> ReadRow | None:
    columns: Any = reader.columns
    names = (columns.prompt_key, columns.chosen_key, columns.rejected_key)
    if form.name == DECLARED:
        return _with_system_first(reader, form, row, names) if _has_system(row) else None
    if form.name == "hh":
        talks = {name: transcript(row[name], name) for name in names[1:]}
        return _made({name: talk.messages for name, talk in talks.items()}, form, talks, row)
    if form.name == "openai":
        name = form.needs["input"]
        given = parsed(row[name])
        given = given if type(given) is dict else {}
        talk = turns(given.get("messages"), f"{name}.messages")
        talk.unused |= dict.fromkeys(f"{name}.{key}" for key in given if key != "messages" and given[key])
    else:
        talk = _talk(form, row)
    if PAIR in form.needs:
        return _read_both(form, row, names, talk)
    if "chosen" not in form.needs and (fault := _no_answer(talk)):
        return ReadRow(row, form, {}, fault=fault)
    if "chosen" in form.needs:
        chosen = answer(row[form.needs["chosen"]], form.needs["chosen"])
    else:
        talk, chosen = _last_apart(talk)
    rejected = answer(row[form.needs["rejected"]], form.needs["rejected"])
    talks = dict(zip(names, (talk, chosen, rejected), strict=True))
    return _made({name: talk.messages for name, talk in talks.items()}, form, talks, row)


def _read_both(form: Form, row: dict[str, Any], names: tuple[str, ...], talk: Talk) -> ReadRow:
    """Read a question with a list of the better and the worse answer."""
    column = form.needs[PAIR]
    both = parsed(row[column])
    if len(both) != 2:
        fault = Fault("DATA-E1505", column, f"{len(both)} answers", "two: the chosen one and the rejected one",
                      "write each pair of answers as a row, or remove the row")  # fmt: skip
        return ReadRow(row, form, {}, fault=fault)
    answers = [answer(value, f"{column}[{number}]") for number, value in enumerate(both)]
    talks = dict(zip(names, (talk, *answers), strict=True))
    return _made({name: talk.messages for name, talk in talks.items()}, form, talks, row)


def _read_rated(reader: RowReader, form: Form, row: dict[str, Any]) -> ReadRow | None:
    columns: Any = reader.columns
    names = (columns.prompt_key, columns.completion_key)
    if form.name == DECLARED:
        return _with_system_first(reader, form, row, names) if _has_system(row) else None
    label = form.needs["label"]
    if {"ask": names[0], "answer": names[1]}.items() <= form.needs.items() and not _has_system(row):
        made, talks = {name: row[name] for name in names}, {}  # only the label has another name
    else:
        talk = _talk(form, row)
        if "talk" in form.needs and (fault := _no_answer(talk)):
            return ReadRow(row, form, {}, fault=fault)
        said = answer(row[form.needs["answer"]], form.needs["answer"]) if "answer" in form.needs else Talk([])
        talks = dict(zip(names, (talk, said) if "answer" in form.needs else _last_apart(talk), strict=True))
        made = {name: talk.messages for name, talk in talks.items()}
    made[columns.label_key] = row[label]
    read = _made(made, form, talks, row)
    read.origins[columns.label_key] = [Origin(label)]
    return read


_READERS: dict[str, Callable[[RowReader, Form, dict[str, Any]], ReadRow | None]] = {
    "chat_completion": _read_chat,
    "preference": _read_pair,
    "kto": _read_rated,
}


def _talk(form: Form, row: dict[str, Any]) -> Talk:
    """Return the system text, the earlier turns, and the conversation or the question of a row."""
    if "talk" in form.needs:
        return with_system(turns(row[form.needs["talk"]], form.needs["talk"]), row, SYSTEM)
    talk = earlier_turns(row.get("history"), "history")
    if type(talk.messages) is not list:
        talk = Talk([]).extend(talk)
    return with_system(talk.extend(question(row, form.needs["ask"], form.may.get("beside", ""))), row, SYSTEM)


def _no_answer(talk: Talk) -> Fault | None:
    """Return the fault of a conversation whose last message is not the assistant's; others are left to the checks."""
    last = talk.messages[-1] if type(talk.messages) is list and talk.messages else None
    role = last.get("role", last.get("from", last.get("speaker"))) if type(last) is dict else ""
    if type(role) is not str or SHAREGPT_ROLES.get(role.lower(), "assistant") == "assistant":
        return None
    return Fault("DATA-E1504", talk.origins[-1].path, f"the role {as_found(role)} in the last message",
                 "an answer that ends with an assistant's turn", "add the answer, or remove the row")  # fmt: skip


def _last_apart(talk: Talk) -> tuple[Talk, Talk]:
    """Separate the last message of a conversation, which is the answer."""
    if type(talk.messages) is not list:
        return talk, Talk([], talk.origins)
    before = Talk(talk.messages[:-1], talk.origins[:-1] or talk.origins, talk.notes, talk.unused, talk.path)
    return before, Talk(talk.messages[-1:], talk.origins[-1:], path=talk.path)


def _with_system_first(reader: RowReader, form: Form, row: dict[str, Any], names: tuple[str, ...]) -> ReadRow:
    """Put the system text before the prompt of a row with the declared columns, or, without one, before its answers."""
    prompt = names[0]
    first = names[:1] if not is_empty(row.get(prompt)) else names[1:]
    made, talks = dict(row), {}
    for name in first:
        talk = question(row, name) if name == prompt else answer(row.get(name), name)
        talks[name] = with_system(talk, row, SYSTEM)
        made[name] = talks[name].messages
    return _made(made, form, talks, row)


def _made(made: dict[str, Any], form: Form, talks: dict[str, Talk], row: dict[str, Any]) -> ReadRow:
    notes: dict[tuple[str, str], None] = {}
    unused: dict[str, None] = {}
    for talk in talks.values():
        notes |= talk.notes
        unused |= talk.unused
    if form.name != DECLARED:
        notes = {(READ_AS, f"read as {form.title} rows"): None, **notes}
    used = {*form.needs.values(), *form.may.values()}
    unused |= dict.fromkeys(name for name, value in row.items() if name not in used and not is_empty(value))
    return ReadRow(
        made,
        form,
        {name: talk.origins or [Origin(talk.path)] for name, talk in talks.items()},
        tuple(notes),
        tuple(unused),
    )


def _has_system(row: dict[str, Any]) -> bool:
    return any(name in row and not is_empty(row[name]) and row[name] != [] for name in SYSTEM)
