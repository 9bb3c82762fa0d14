"""One form of answers in LaTeX that are written in several ways, and the brackets around an answer.

The form is that of the MATH data set's own comparison, which verl uses for its sources: \\dfrac12 → \\frac{1}{2}.
"""

from __future__ import annotations

import re

_SAME = (
    ("\n", ""), ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), ("\\left", ""), ("\\right", ""),
    ("^{\\circ}", ""), ("^\\circ", ""), ("\\$", ""),
)  # fmt: skip
_SAME_AFTER_UNITS = (("\\\\%", ""), ("\\%", ""), (" .", " 0."), ("{.", "{0."))
_UNIT = "\\text{ "  # opens a unit behind a number
_ROOT_OF_NOTHING = re.compile(r"\\sqrt(?:\\sqrt|\Z)")
_SHORT_ROOT = re.compile(r"\\sqrt([^{])")
# Whole numbers in the form that Python writes, with as many digits as it reads.
_RATIO = re.compile(r"(0|-?[1-9][0-9]{0,4299})/(0|-?[1-9][0-9]{0,4299})")


def plain_form(text: str) -> str:
    """Return an answer in one form. Raises ValueError for a command without its argument, or several units.

    0.5 → \\frac{1}{2}, 3/4 → \\frac{3}{4}, x = 5 → 5, \\sqrt3 → \\sqrt{3}, 10\\text{ cm} → 10.
    """
    for old, new in _SAME:
        text = text.replace(old, new)
    if text.count(_UNIT) > 1:
        raise ValueError(text)
    text = text.split(_UNIT)[0]
    for old, new in _SAME_AFTER_UNITS:
        text = text.replace(old, new)
    if not text:
        return text
    text = "0" * text.startswith(".") + text
    name, _, value = text.partition("=")
    if text.count("=") == 1 and len(name) <= 2:
        text = value
    if _ROOT_OF_NOTHING.search(text):
        raise ValueError(text)
    text = _long_fractions(_SHORT_ROOT.sub(r"\\sqrt{\1}", text).replace(" ", ""))
    if text == "0.5":
        return "\\frac{1}{2}"
    return _RATIO.sub(r"\\frac{\1}{\2}", text) if _RATIO.fullmatch(text) else text


def _long_fractions(text: str) -> str:
    """Write \\frac12 as \\frac{1}{2}; a text that ends within a fraction is left as it is."""
    first, *parts = text.split("\\frac")
    made = [first]
    for part in parts:
        if not part:
            raise ValueError(text)
        if part[0] == "{":
            made.append(part)
            continue
        if len(part) < 2:
            return text
        below = part[1:] if part[1] == "{" else "{" + part[1] + "}" + part[2:]
        made.append("{" + part[0] + "}" + below)
    return "\\frac".join(made)


def closing(text: str, start: int) -> int:
    """Return where the first bracket from `start` on closes; -1 if it never does."""
    depth = 0
    for brace in re.finditer("[{}]", text[start:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0 and brace[0] == "}":
            return start + brace.start()
    return -1


def last_box(text: str, words: tuple[str, ...]) -> str | None:
    """Return the last box from its word to its closing bracket: \\boxed{4}. The first word that occurs counts."""
    start = next((place for word in words if (place := text.rfind(word)) >= 0), -1)
    end = closing(text, start) if start >= 0 else -1
    return text[start : end + 1] if end >= 0 else None
