"""The forms of rows: name, title in messages, and columns by their part in the row.

Parts: `ask` (the question), `beside` (added to the question on a line of its own), `answer`, `talk` (a conversation),
`chosen`, `rejected`, `label`, and, optional everywhere, `system`, `history` (earlier turns as pairs) and `tools`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from steps.params.group import Group, default_in

SYSTEM = ("system", "system_prompt")
TALKS = ("messages", "conversations", "conversation", "dialog", "dialogue", "chat", "turns", "data")
FUNCTIONS = "functions"  # OpenAI's former name of the column with tools
CERTAIN_TALKS = TALKS[:3]  # names that are used for nothing else
LABELS = ("label", "kto_tag")
DECLARED = "declared"
PAIR = "pair"  # part: a list of the better and the worse answer


@dataclass(frozen=True)
class Form:
    """One form of rows, with the names of its columns."""

    name: str
    """Value of row_form, or DECLARED for the task's own columns."""
    title: str
    needs: dict[str, str]
    """Part → column."""
    may: dict[str, str] = field(default_factory=dict)
    """Optional part → column."""

    second: bool = False
    """Whether the answer's column is not the one that is usual with this question."""

    @property
    def required(self) -> frozenset[str]:
        """The columns that make the form."""
        return frozenset(self.needs.values())

    def column(self, part: str) -> str:
        """Return the column of a part; empty if the form has none."""
        return self.needs.get(part) or self.may.get(part, "")


@dataclass(frozen=True)
class _Asking:
    name: str
    title: str
    asks: tuple[str, ...]
    answers: tuple[str, ...]
    beside: str = ""


ASKING = (
    _Asking("alpaca", "Alpaca", ("instruction",), ("output", "answer", "completion"), "input"),
    _Asking("dolly", "Dolly", ("instruction",), ("response",), "context"),
    _Asking("query_response", "query/response", ("query",), ("response", "answer", "output")),
    _Asking("prompt_completion", "prompt/completion", ("prompt",), ("completion", "response", "answer", "output")),
    _Asking(
        "question_answer", "question/answer", ("question",), ("answer", "response", "output", "completion"), "context"
    ),
    _Asking("problem_solution", "problem/solution", ("problem",), ("solution",)),
    _Asking("input_output", "input/output", ("input",), ("output",)),
    _Asking("human_assistant", "human/assistant", ("human", "user"), ("assistant",)),
)
SHAREGPT = ("sharegpt", "ShareGPT")

# Task → the column parameters that a form stands in for: named explicitly, they forbid forms.
STANDS_FOR = {
    "chat_completion": ("messages_key",),
    "preference": ("prompt_key",),
    "kto": ("prompt_key", "completion_key"),
}


def forms_of(task: str, columns: Group) -> list[Form]:
    """Return the forms of a task's rows, the declared columns first; empty for tasks whose rows have one form only."""
    return list(FORMS[task](columns)) if task in FORMS else []


def _chat_forms(columns: Any) -> Iterator[Form]:
    more = _optional(columns.tools_key)
    own = dict.fromkeys((columns.messages_key, "conversations"))
    yield from (Form(DECLARED, own_title(name), {"talk": name}, _declared(more)) for name in own)
    yield from (Form(*SHAREGPT, {"talk": name}, more) for name in TALKS if name not in own)
    yield from _asking(more)


def _pair_forms(columns: Any) -> Iterator[Form]:
    more = _optional()
    answers = {"chosen": columns.chosen_key, "rejected": columns.rejected_key}
    prompt = columns.prompt_key
    yield Form(DECLARED, own_title(prompt), {"prompt": prompt, **answers}, _declared(more))
    yield Form(DECLARED, own_title(columns.chosen_key), answers, {**_declared(more), "prompt": prompt})
    yield from (Form(*SHAREGPT, {"talk": name, **answers}, more) for name in TALKS)
    yield from _asking(more, answers, without=(prompt,))
    if columns.chosen_key == default_in(type(columns), "chosen_key"):
        both = {"chosen": "preferred_output", "rejected": "non_preferred_output"}
        yield Form("openai", "OpenAI preference", {"input": "input", **both})
        yield from (Form(*SHAREGPT, {"talk": name, "rejected": "rejected_response"}, more) for name in TALKS)
        yield Form("hh", "Human/Assistant transcript", answers)
        yield from _asking(more, {"chosen": "response_j", "rejected": "response_k"})
        alpaca = ASKING[0]
        yield Form(
            alpaca.name,
            alpaca.title,
            {"ask": alpaca.asks[0], PAIR: alpaca.answers[0]},
            {"beside": alpaca.beside, **more},
        )


def _rated_forms(columns: Any) -> Iterator[Form]:
    more = _optional()
    own = {"prompt": columns.prompt_key, "answer": columns.completion_key}
    yield Form(DECLARED, own_title(columns.prompt_key), {**own, "label": columns.label_key}, _declared(more))
    default = columns.label_key == default_in(type(columns), "label_key")
    for label in dict.fromkeys((columns.label_key, *(LABELS if default else ()))):
        yield from (Form(*SHAREGPT, {"talk": name, "label": label}, more) for name in TALKS)
        # The declared prompt and completion with the other label are read by prompt_completion.
        yield from (
            form for form in _asking(more, {"label": label}) if form.required != {*own.values(), columns.label_key}
        )


FORMS = {"chat_completion": _chat_forms, "preference": _pair_forms, "kto": _rated_forms}


def _asking(
    more: dict[str, str], others: dict[str, str] | None = None, without: tuple[str, ...] = ()
) -> Iterator[Form]:
    """Yield the forms with a question; `others` are the parts besides it, with or instead of the answer."""
    others = others or {}
    for form in ASKING:
        may = {"beside": form.beside, **more} if form.beside else more
        for ask in form.asks:
            if ask in without:
                continue
            if "chosen" in others:
                yield Form(form.name, form.title, {"ask": ask, **others}, may)
                continue
            for answer in form.answers:
                needs = {"ask": ask, "answer": answer, **others}
                yield Form(form.name, form.title, needs, may, second=answer != form.answers[0])


def _optional(tools: str = "") -> dict[str, str]:
    more = {"system": SYSTEM[0], "system_prompt": SYSTEM[1], "history": "history"}
    return {**more, "tools": tools, "functions": FUNCTIONS} if tools else more


def _declared(more: dict[str, str]) -> dict[str, str]:
    return {part: name for part, name in more.items() if part != "history"}


def own_title(column: str) -> str:
    """Return the title of rows with the declared columns."""
    return f"rows with the column {column}"
