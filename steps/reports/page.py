"""Write sections as one HTML file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, Undefined
from markupsafe import Markup, escape

from steps.artifacts import write_durably
from steps.errors import Outage, Problem
from steps.redaction import without_credentials
from steps.reports import formats

MARK = re.compile(rb"\n<!-- sha256 ([0-9a-f]{64}) -->\n\Z")
REGISTERED = "<!-- the registered version -->"  # register_model, which runs later, puts it here
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Section:
    """One part of a page."""

    name: str
    """Also the anchor, and the name of the template without `.html`."""
    title: str
    facts: dict[str, Any] = field(default_factory=dict)
    missing: str = ""
    """Why the section has no content; empty if it has content."""


def write_page(
    file: Path, title: str, sections: list[Section], digests: dict[str, str], head: dict[str, Any] | None = None
) -> None:
    """Write a page; `digests` are those of its artifacts, `head` is the verdict of a run, shown at the top."""
    css = Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))
    page = _environment().get_template("page.html")
    text = page.render(title=title, css=css, sections=sections, digests=digests, head=head,
                       registered_marker=Markup(REGISTERED))  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    write_durably(file, _marked(without_credentials(text)))


def name_version(page: Path, file: Path, version: str) -> None:
    """Copy a run report to `file`, with a sentence that names the registered version.

    Raises Outage if the page is not as it was written; one of another origin has no mark to compare it with.
    """
    told = f'<p class="reason">{escape(version)}</p>'
    file.parent.mkdir(parents=True, exist_ok=True)
    write_durably(file, _marked(_unmarked(page).replace(REGISTERED, without_credentials(told), 1)))


def _marked(text: str) -> str:
    """End a page with its sha256: it is a file alone, without a manifest."""
    return f"{text.rstrip()}\n<!-- sha256 {hashlib.sha256(text.rstrip().encode()).hexdigest()} -->\n"


def _unmarked(page: Path) -> str:
    content = page.read_bytes()
    body, mark = (content, b"") if not (found := MARK.search(content)) else (content[: found.start()], found[1])
    now = hashlib.sha256(body).hexdigest()
    if mark and now != mark.decode():
        raise Outage(
            Problem("ARTIFACT-E0103", str(page), f"a page with other content than was written: sha256 {now[:12]}",
                    f"sha256 {mark.decode()[:12]}, as in its last line",
                    "run again with caching off, so that the step that writes it runs again"),
            transient=False,
        )  # fmt: skip
    return body.decode("utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True, auto_reload=False
    )
    for filter_ in (
        formats.count, formats.number, formats.size, formats.duration, formats.percent, formats.words,
        formats.parameter, formats.name_lines,
    ):  # fmt: skip
        environment.filters[filter_.__name__] = _forgiving(filter_)
    return environment


def _forgiving(filter_: Callable[..., Any]) -> Callable[..., Any]:
    """Format missing facts as a dash, like null, instead of failing."""
    return lambda *values: filter_(*(None if isinstance(value, Undefined) else value for value in values))
