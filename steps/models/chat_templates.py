"""Chat templates: which ones a model has, and how one text of them stays the same in every step."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from steps.errors import Problem, UserError, shown
from steps.params.text_file import decoded
from steps.sources import storage

STORED = "chat_template.jinja"
TRAINING = "training_template.jinja"  # of a data set: what its rows were written with, if it is another copy
LARGEST_TEMPLATE = 256 * 1024  # bytes; the longest that are known have 30 thousand
FOLDER = "additional_chat_templates/"  # other templates of a model, as <name>.jinja
DEFAULT, WITH_TOOLS = "default", "tool_use"  # the names that transformers chooses by itself
CLOCK = "strftime_now"
MARK = "\ufeff"
DIRECTIVE = re.compile(r"%[-_0^#]?[A-Za-z]")
DRAWN = re.compile(r"\|\s*random\b|\blipsum\s*\(")  # what Jinja draws anew at each call
PERCENT = "\ue000"  # a character of no template, in place of %%

Named = Mapping[str, str]


def templates_of(names: Mapping[str, str], read: Callable[[str], bytes], config: Mapping[str, Any]) -> dict[str, str]:
    """Return a model's templates by name, as transformers finds them: in files, else in tokenizer_config.json.

    `names` are the tokenizer's files (name → path), `config` is the content of tokenizer_config.json. Raises UserError
    for one that is too long.
    """
    found = {
        DEFAULT if name == STORED else name.removeprefix(FOLDER).removesuffix(".jinja"): _text(read(path))
        for name, path in names.items()
        if is_template(name)
    }
    found = found or named(config.get("chat_template"))
    if long := [name for name, text in found.items() if len(text) > LARGEST_TEMPLATE]:
        raise UserError(_too_long(f"the model's template {shown(long[0])}", len(found[long[0]])))
    return found


def template_file(uri: str) -> str:
    """Read a template that the user names; a byte order mark at its start is kept, so that it is told.

    Raises UserError, and as `storage.read_bytes`.
    """
    content = storage.read_bytes("chat_template", uri, LARGEST_TEMPLATE + 1)
    if len(content) > LARGEST_TEMPLATE:
        raise UserError(_too_long(uri, len(content)))
    text = decoded(f"chat_template {uri}", content)
    return MARK + text if content.startswith(codecs.BOM_UTF8) else text


def is_template(name: str) -> bool:
    """Return whether a tokenizer's file is a chat template."""
    return name == STORED or (name.startswith(FOLDER) and name.endswith(".jinja") and name.count("/") == 1)


def named(template: Any) -> dict[str, str]:
    """Return templates by name from what tokenizer_config.json or a tokenizer holds: a text, a list or an object."""
    if isinstance(template, list):
        return {str(one.get("name")): str(one.get("template")) for one in template if isinstance(one, dict)}
    if isinstance(template, Mapping):
        return dict(template)
    return {DEFAULT: str(template)} if template else {}


def single(templates: Named) -> str:
    """Return one template for conversations with and without tools, for which a model may have a template each."""
    default, tools = templates[DEFAULT], templates.get(WITH_TOOLS)
    if tools is None:
        return default
    # A line end after a tag is not written, so both texts begin as they do alone; {{ '' }} keeps blanks at their end.
    parts = [text.removesuffix("\n") + "{{ '' }}" for text in (tools, default)]
    return f"{{% if tools is defined and tools is not none %}}\n{parts[0]}{{% else %}}\n{parts[1]}{{% endif %}}"


def tidy(text: str) -> str:
    """Remove byte order marks, and write line ends as Jinja reads them."""
    return text.replace(MARK, "").replace("\r\n", "\n").replace("\r", "\n")


def reads_clock(text: str) -> bool:
    """Return whether a template writes the time of its rendering."""
    return CLOCK in text


def draws(text: str) -> bool:
    """Return whether a template writes something random."""
    return DRAWN.search(text) is not None


def with_fixed_clock(text: str, now: datetime) -> str:
    """Return a template that writes the time `now` at each rendering: a macro takes the place of the clock."""
    values = {one: now.strftime(one) for one in sorted(set(DIRECTIVE.findall(text)))}
    steps = [("%%", PERCENT), *values.items(), (PERCENT, "%")]
    filters = "".join(f" | replace({json.dumps(one)}, {json.dumps(other)})" for one, other in steps)
    return f"{{% macro {CLOCK}(format) %}}{{{{ format{filters} }}}}{{% endmacro %}}\n{text}"


def undecided(own: Named) -> Problem | None:
    """Return the problem of chat_template=keep for a model without a template, or with several and no default."""
    names = sorted(name for name, text in own.items() if text.strip())
    if DEFAULT in names:
        return None
    if not names:
        return Problem("DATA-E0801", "chat_template", "keep, but the model has no chat template",
                       "a template for conversations",
                       "set chat_template to chat-ml or another name, or to a .jinja file")  # fmt: skip
    return Problem("DATA-E0822", "chat_template", f"keep, but the model has several templates ({', '.join(names)}) and "
                   "none is the default", "the name of one of them", f"set chat_template={names[0]}")  # fmt: skip


def set_at_the_server(chosen: str) -> Problem:
    """Return the problem of a template that is chosen for conversations that a server renders."""
    return Problem("DATA-E0825", "chat_template", f"{chosen}, for a server that renders conversations itself", "keep",
                   "leave it out, or set it where the server is started")  # fmt: skip


def _too_long(which: str, size: int) -> Problem:
    return Problem("DATA-E0827", "chat_template", f"{which} with {size:,} characters or more",
                   f"at most {LARGEST_TEMPLATE:,}", "name a template, or write one into a .jinja file")  # fmt: skip


def _text(content: bytes) -> str:
    return content.decode("utf-8", errors="replace")
