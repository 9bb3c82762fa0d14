"""The chat template that a run will use, as far as the plan can know it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from steps.errors import Problem, UserError, nearest
from steps.models.chat_templates import DEFAULT, MARK, reads_clock, single, template_file, templates_of
from steps.models.template_syntax import syntax_error
from steps.models.template_trial import endless
from steps.params.data import CHAT_TEMPLATES, ChatTemplate
from steps.plan.sources import ModelFound, refuse_bad_uri
from steps.sources import storage
from steps.tasks import load_task

if TYPE_CHECKING:
    from steps.plan.seen import Seen

KEEP = "keep"


@dataclass(frozen=True)
class TemplateFound:
    """A chat template, as read by the plan."""

    own: dict[str, str] = field(default_factory=dict)
    """The model's templates by name."""
    digest: str = ""
    """Content digest of the file of chat_template; empty for a template of the model or of ours."""
    text: str = ""
    """The template; empty for one of ours, or if there is none."""


def look_at_template(p: ChatTemplate, model: ModelFound | None) -> TemplateFound:
    """Find the template that chat_template names. Raises UserError for an unknown name or file."""
    chosen, own = p.chat_template, _own(model) if model else {}
    if chosen == KEEP:
        return TemplateFound(own, text=single(own) if DEFAULT in own else "")
    if chosen in CHAT_TEMPLATES:
        return TemplateFound(own)
    if chosen in own:
        return TemplateFound(own, text=own[chosen])
    if not chosen.endswith((".jinja", ".j2")):
        known = [*CHAT_TEMPLATES, *sorted(set(own) - {DEFAULT})]
        raise UserError(
            Problem("PLAN-E0304", "chat_template", chosen, f"{', '.join(known)}, or a file ending in .jinja",
                    nearest(chosen, known) or "write the template into a .jinja file")
        )  # fmt: skip
    refuse_bad_uri("chat_template", chosen)
    digest = storage.digest_of("chat_template", chosen)
    return TemplateFound(own, digest, template_file(chosen))


def syntax_problems(seen: Seen) -> Iterator[Problem]:
    """Yield a problem if the chosen template is used and is no Jinja template."""
    if load_task(seen.parameters.rows_task).CONVERSATIONS:
        yield from problems_of_syntax(seen.template, seen.parameters.chat_template)


def problems_of_syntax(found: TemplateFound, chosen: str) -> Iterator[Problem]:
    """Yield a problem if a template is no Jinja template, or does not end; `chosen` is the parameter chat_template."""
    if found.text and (wrong := syntax_error(found.text) or endless(found.text)):
        own = chosen == KEEP or chosen in found.own
        where, fix = ("the model's template", "upload its template again, or set chat_template=chat-ml") if own else (
            chosen, "correct the file")  # fmt: skip
        yield Problem("DATA-E0806", "chat_template", f"{where}:{wrong}", "a Jinja template that ends", fix)


def template_notes(seen: Seen) -> Iterator[str]:
    """Warn of a template that would write something else at each rendering, or something that nobody sees."""
    if load_task(seen.parameters.rows_task).CONVERSATIONS:
        yield from notes_on(seen.template.text, ", and the prompts of the evaluation and the tuned model keep it")


def notes_on(text: str, more: str = "") -> Iterator[str]:
    """Yield the same for the text of a template; `more` says what else follows from a clock."""
    if reads_clock(text):
        yield f"the chat template reads the clock (strftime_now): the time is fixed when the data is prepared{more}"
    if MARK in text:
        yield "the chat template contains a byte order mark (U+FEFF), which is left out"


def _own(model: ModelFound) -> dict[str, str]:
    source, names = model.tokenizer
    layout = model.adapter.layout if model.adapter and model.adapter.layout.has_tokenizer else model.layout
    return templates_of(names, source.read, layout.tokenizer_config)
