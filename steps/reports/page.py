"""Sections become one HTML file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, Undefined
from markupsafe import Markup

from steps.artifacts import write_durably
from steps.reports import formats

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Section:
    """One part of a page."""

    name: str
    """Also the anchor, and the template without `.html`."""
    title: str
    facts: dict[str, Any] = field(default_factory=dict)
    missing: str = ""
    """Why there is nothing to show; empty when there is."""


def write_page(
    file: Path, title: str, sections: list[Section], digests: dict[str, str], head: dict[str, Any] | None = None
) -> None:
    """Write a page; `digests` name the artifacts it was made from, `head` is the verdict of a run, above all else."""
    css = Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))
    page = _environment().get_template("page.html")
    text = page.render(title=title, css=css, sections=sections, digests=digests, head=head)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_durably(file, text)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True, auto_reload=False
    )
    for filter_ in (formats.count, formats.number, formats.size, formats.duration, formats.percent, formats.words):
        environment.filters[filter_.__name__] = _forgiving(filter_)
    return environment


def _forgiving(filter_: Callable[..., str]) -> Callable[..., str]:
    """A fact that is not in the file is no reason to have no page: it is shown as a dash, like a null."""
    return lambda *values: filter_(*(None if isinstance(value, Undefined) else value for value in values))
