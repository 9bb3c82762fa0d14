"""Whether a chat template can be read by Jinja, as transformers extends it."""

from __future__ import annotations

from typing import Any


def syntax_error(text: str) -> str:
    """Return the line and what Jinja says of it, as `3: unexpected '}'`; empty for a template that can be read."""
    import jinja2

    try:
        _environment().parse(text)
    except jinja2.TemplateSyntaxError as error:
        return f"{error.lineno}: {error.message}"
    except RecursionError:
        return "1: nested too deep"
    return ""


def _environment() -> Any:
    """Return a Jinja environment with the tag {% generation %}, which transformers adds to Jinja."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body).set_lineno(line)

    return jinja2.Environment(extensions=[Generation, loopcontrols])
