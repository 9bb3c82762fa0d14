"""The text of a completion, and the answers that a text states."""

from __future__ import annotations

import re
from typing import Any

from steps.tasks.rules.json_text import as_json

# One line: `Final Answer: C`, `**Answer:** C`, `The answer is C.`
_LABEL = re.compile(r"(?i)\b(?:final\s+)?answer\b[*_`\s]*(?:[:=]|is\b:?)[*_`\s]*(.*)")
_HEADING = re.compile(r"(?i)^[#*_\s]*final\s+answer[*_:\s]*$")  # the answer stands on the next line with text
_OPEN, _CLOSE = "<answer>", "</answer>"
_BOXED = ("\\boxed", "\\fbox")


def text_of(completion: Any) -> str:
    """Return the text of a completion: a string, or messages, whose contents are joined by line breaks.

    [{"role": "assistant", "content": "4"}] → "4". Parts that are no text (images, tool calls) are left out.
    """
    if isinstance(completion, str):
        return completion
    if isinstance(completion, dict):
        return _content(completion.get("content"))
    if isinstance(completion, list | tuple):
        return "\n".join(text for message in completion if (text := text_of(message)))
    return ""


def without_thoughts(text: str) -> str:
    """Return what follows the last </think>; a thought that was never closed is left out as well.

    Templates that put <think> into the prompt leave only </think> in the completion.
    """
    text = text[text.rfind("</think>") + len("</think>") :] if "</think>" in text else text
    return text.split("<think>", 1)[0]


def answers_in(text: str) -> list[str]:
    """Return the answers that a text states; a reward counts the text as right if every one of them is right.

    The content of the last <answer> block, and the rest of the last line with "Final Answer:", "Answer:" or "answer
    is" outside of it. Without these: the last \\boxed{}, else what follows the last ####, else the last line. Nothing
    inside <think> is an answer. If the block and the line disagree, the text contradicts itself: two entries.
    """
    text = without_thoughts(text)
    block, rest = _cut_block(text)
    found = [] if block is None else [_inside(block)]
    label = _labelled(rest)
    if label:
        found.append(_boxed(label) or label)
    if not found and (boxed := _boxed(text)):
        found.append(boxed)
    if not found and "####" in text:
        found.append(_first_line(text.rsplit("####", 1)[1]))
    if not found:
        found.append(last_line(text))
    return [one.strip() for one in found]


def last_line(text: str) -> str:
    """Return the last line that is not blank, or an empty text."""
    return text.rstrip().rsplit("\n", 1)[-1].strip()


def shortened(text: str, limit: int = 200) -> str:
    """Cut a text for a table of completions."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def as_table_text(value: Any) -> str | None:
    """Return what a reward logged, of any type, as text that a file can hold; None for None.

    Half a surrogate pair, as a user's code may return, cannot be encoded.
    """
    if value is None:
        return None
    try:
        text = value if isinstance(value, str) else as_json(value, str)
    except (TypeError, ValueError):
        text = str(value)
    return text.encode("utf-8", "replace").decode()


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list | tuple):
        parts = (part.get("text") if isinstance(part, dict) else part for part in content)
        return "".join(text for text in parts if isinstance(text, str))
    return ""


def _cut_block(text: str) -> tuple[str | None, str]:
    """Return the content of the last <answer> block, up to the end if it is not closed, and the text around it."""
    start = text.rfind(_OPEN)
    if start < 0:
        return None, text.replace(_CLOSE, "\n")  # a tag that closes nothing is no part of an answer
    end = text.find(_CLOSE, start)
    inner = text[start + len(_OPEN) : end if end >= 0 else len(text)]
    after = text[end + len(_CLOSE) :] if end >= 0 else ""
    return inner, text[:start].replace(_OPEN, "\n").replace(_CLOSE, "\n") + "\n" + after


def _inside(block: str) -> str:
    """Return the answer in a block, which may itself be labelled or boxed."""
    label = _labelled(block)
    inner = block if label is None else label
    return _boxed(inner) or inner


def _labelled(text: str) -> str | None:
    """Return what follows the last label; of several labels in one line, the last one counts."""
    following = ""
    for line in reversed(text.split("\n")):
        if _HEADING.match(line):
            return following
        if match := _LABEL.search(line):
            rest = match[1].strip()
            return rest or following
        following = line.strip() or following
    return None


def _first_line(text: str) -> str:
    return text.lstrip().split("\n", 1)[0]


def _boxed(text: str) -> str | None:
    """Return the content of the last \\boxed{…}, whose braces must balance; None without one."""
    start = max(text.rfind(word) for word in _BOXED)
    if start < 0:
        return None
    begin = text.find("{", start)
    if begin < 0:
        return None
    depth = 0
    for place in range(begin, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0:
            return text[begin + 1 : place]
    return None
