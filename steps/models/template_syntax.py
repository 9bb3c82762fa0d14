"""Whether a chat template can be read by Jinja, as transformers extends it."""

from __future__ import annotations

from typing import Any

DEEPEST = 80  # levels of a template; those that are known have 22
NESTED = "1: nested too deep"


def syntax_error(text: str) -> str:
    """Return the line and what Jinja says of it, as `3: unexpected '}'`; empty for a template that can be read."""
    import jinja2

    try:
        tree = environment().parse(text)
    except jinja2.TemplateSyntaxError as error:
        return f"{error.lineno}: {error.message}"
    except RecursionError:
        return NESTED
    except ValueError as error:  # a number of thousands of digits
        return f"1: {error}"
    return NESTED if _is_deep(tree) else ""


def _is_deep(tree: Any) -> bool:
    """Return whether Jinja's compiler would end in a RecursionError: its parser takes `a + a + …` of any length."""
    level = [tree]
    for _ in range(DEEPEST):
        level = [inner for node in level for inner in node.iter_child_nodes()]
        if not level:
            return False
    return True


def environment(sandboxed: bool = False) -> Any:
    """Return a Jinja environment with the tag {% generation %}, which transformers adds to Jinja."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body).set_lineno(line)

    kind = ImmutableSandboxedEnvironment if sandboxed else jinja2.Environment
    return kind(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
