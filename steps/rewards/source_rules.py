"""How verl 0.9.1 scores answers by their text alone, for the sources of four families.

Each function takes the whole completion, thoughts included, and the right answer. Values are those of verl's
functions; tests/steps/test_rewards_by_source.py compares them.
"""

from __future__ import annotations

import re
import string
from typing import Any

from steps.rewards.latex_forms import last_box, plain_form
from steps.rewards.library import Judged

TAIL = 300  # characters at the end of a completion that two of the families read
BOX_TAIL = 100  # of these, the ones in which a box counts


def gsm8k(text: str, truth: Any) -> Judged:
    """Score 1 for the number behind the last `#### `, written as in the right answer but for commas, else 0."""
    found = re.findall(r"#### (-?[0-9.,]+)", text[-TAIL:])
    answer = found[-1].replace(",", "") if found else None
    return Judged(float(answer is not None and answer == truth), answer)


def math(text: str, truth: Any) -> Judged:
    """Score 1 for the last box, if its content has the same plain form as the right answer, else 0."""
    answer = _boxed(text)
    if answer is None or not isinstance(truth, str):
        return Judged(0.0, answer)
    try:
        return Judged(float(plain_form(answer) == plain_form(truth)), answer)
    except ValueError:
        return Judged(float(answer == truth), answer)


def _boxed(text: str) -> str | None:
    """Return the content of the last box: with a blank behind the word it goes up to a dollar sign."""
    if "\\boxed " in text:
        return text.rsplit("\\boxed ", 1)[1].split("$", 1)[0]
    box = last_box(text, ("\\boxed", "\\fbox"))
    if box is None or not box.startswith("\\boxed{"):
        return None
    return box[len("\\boxed{") : -1]


_LABEL = re.compile(r"(?i)Answer\s*:\s*([^\n]+)")
_INVALID = "[INVALID]"  # verl's word for no answer, to which an answer can be equal
_REPLACED = (
    ("an ", ""), ("a ", ""), (".$", "$"), ("\\$", ""), ("\\ ", ""), (" ", ""), ("mbox", "text"),
    (",\\text{and}", ","), ("\\text{and}", ","), ("\\text{m}", "\\text{}"),
)  # fmt: skip
# Units and marks that are no part of an answer, in verl's order: leaving one out can make another one.
UNITS = (
    "square ways integers dollars mph inches hours km units \\ldots sue points feet minutes digits cents degrees cm "
    "gm pounds meters meals edges students childrentickets multiples \\text{s} \\text{.}"
)
_LEFT_OUT = (
    *UNITS.split(),
    "\\text{\ns}", "\\text{}^2", "\\text{}^3", "\\text{\n}", "\\text{}", "\\mathrm{th}", "^\\circ", "^{\\circ}",
    "\\;", ",\\!", "{,}", '"', "\\dots",
)  # fmt: skip
_UNWRAPPED = (
    (re.compile(r".*?\$(.*?)\$.*"), r"$\1$"),
    (re.compile(r"\\text\{(.*?)\}"), r"\1"),
    (re.compile(r"\\textbf\{(.*?)\}"), r"\1"),
    (re.compile(r"\\overline\{(.*?)\}"), r"\1"),
    (re.compile(r"\\boxed\{(.*)\}"), r"\1"),
    (re.compile(r"frac([^{])(.)"), r"frac{\1}{\2}"),
    (re.compile(r"sqrt([^{])"), r"sqrt{\1}"),
)


def dapo(text: str, truth: Any) -> Judged:
    """Score 1 for the right answer and -1 for any other.

    The answer is what follows the last `Answer:` of the last 300 characters; without one it is the last box of the
    last 100 characters, which must be written exactly as the right answer is.
    """
    tail, right = text[-TAIL:], str(truth)
    labelled = _LABEL.findall(tail)
    answer = _dapo_form(labelled[-1]) if labelled else _INVALID
    correct = answer == _dapo_form(right)
    box = last_box(tail[-BOX_TAIL:], ("\\boxed{",)) if answer == _INVALID else None
    if box is not None:
        answer = box[len("\\boxed{") : -1]
        correct = answer == right
    return Judged(1.0 if correct else -1.0, answer)


def _dapo_form(answer: str) -> str:
    answer = answer.rsplit("=", 1)[-1]
    for old, new in _REPLACED:
        answer = answer.replace(old, new)
    for word in _LEFT_OUT:
        answer = answer.replace(word, "")
    for pattern, new in _UNWRAPPED:
        answer = pattern.sub(new, answer)
    answer = answer.replace("$", "")
    digits = answer.replace(",", "")
    return (digits if digits.isdigit() else answer).strip()


_BLOCK = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
MOST_TAGS = 10


def search(text: str, truth: Any) -> Judged:
    """Score 1 if the last <answer> block is one of the right texts, else 0; a quarter with more than ten such tags.

    Texts are compared without case, punctuation and English articles. The right ones are `target` of an object.
    """
    blocks = _blocks(text)
    if not blocks:
        return Judged(0.0)
    answer, targets = blocks[-1].strip(), targets_of(truth)
    assert targets is not None
    correct = any(_search_form(one) == _search_form(answer) for one in targets)
    tags = max(text.count("<answer>"), text.count("</answer>"))
    return Judged(float(correct) / (4 if tags > MOST_TAGS else 1), answer)


def targets_of(truth: Any) -> list[str] | None:
    """Return the right texts of a ground truth of searchR1; None for one that has none."""
    target: Any = truth.get("target") if isinstance(truth, dict) else None
    target = target.tolist() if hasattr(target, "tolist") else target  # an array, as tables of verl's rows may have
    targets = [target] if isinstance(target, str) else target
    return targets if isinstance(targets, list) and all(isinstance(one, str) for one in targets) else None


def _blocks(text: str) -> list[str]:
    """Return the blocks. Tags behind the last closing one open no block; a search for their ends would take long."""
    end = text.rfind("</answer>")
    return _BLOCK.findall(text[: end + len("</answer>")]) if end >= 0 else []


def _search_form(text: str) -> str:
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())
