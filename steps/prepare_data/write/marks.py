"""Render conversations, with the characters that the template marks as the assistant's by {% generation %}.

transformers 5.17 counts the characters written before a mark. Inside a macro, a call, a filter or an assigned block
that number is wrong, because what these write arrives later: the text before the answer would be learned instead of it.
For templates with such blocks every mark is also written as two characters, which are then found in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from steps.prepare_data.write.offsets import Span

BLOCKS = re.compile(r"\{%-?\s*(macro\b|call\b|filter\b|set\s+[\w.]+\s*(\|[^%]*)?-?%\})")
FIRST, LAST = "\ufdd0", "\ufdd1"  # no characters by Unicode, so that no text has them
WRITTEN = re.compile(f"[{FIRST}{LAST}]")


def render_marked(
    conversations: list[Any], tools: list[Any] | None, template: str, **tokens: Any
) -> tuple[list[str], list[list[Span]]]:
    """Return the texts of conversations and the spans that the template marks; `tokens` are the special tokens."""
    from transformers.utils.chat_template_utils import render_jinja_template

    how = {"tools": tools, "chat_template": template, "return_assistant_tokens_mask": True, **tokens}
    render: Any = render_jinja_template  # its annotation says that it returns a text
    texts, spans = render(conversations=conversations, **how)
    if not BLOCKS.search(template):
        return texts, spans
    with _written_marks(template):
        marked, _ = render(conversations=conversations, **how)
    # A filter may have changed a text because of the marks; then the count is the best that is known.
    return texts, [
        _spans_in(one) if WRITTEN.sub("", one) == text else counted
        for one, text, counted in zip(marked, texts, spans, strict=True)
    ]


def _spans_in(text: str) -> list[Span]:
    """Return the spans between the written marks, as positions in the text without marks."""
    spans: list[Span] = []
    open_marks: list[int] = []
    for before, mark in enumerate(WRITTEN.finditer(text)):
        place = mark.start() - before
        if mark[0] == FIRST:
            open_marks.append(place)
        else:
            spans.append((open_marks.pop(), place))
    return sorted(spans)


@contextmanager
def _written_marks(template: str) -> Iterator[None]:
    """Make transformers write the marks of a template, which it compiles once and keeps."""
    import jinja2
    from transformers.utils.chat_template_utils import _compile_jinja_template

    tags = _compile_jinja_template(template).environment.extensions.values()
    tracker = next(tag for tag in tags if hasattr(tag, "_generation_support"))

    @jinja2.pass_eval_context
    def written(_: Any, caller: Any) -> str:
        return f"{FIRST}{caller()}{LAST}"

    tracker._generation_support = written
    try:
        yield
    finally:
        del tracker._generation_support
