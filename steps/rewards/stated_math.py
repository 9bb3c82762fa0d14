"""How verl 0.9.1 scores the answers of numina and geometry3k: what a completion states, compared as mathematics."""

from __future__ import annotations

import importlib.util
from functools import cache

from steps.errors import Problem, UserError
from steps.rewards.latex_forms import closing, last_box
from steps.rewards.library import Judged
from steps.rewards.worker import Worker

LONGEST = 2000  # characters of an answer that is compared
_BEFORE = ("answer:", "answer is", "answers are")  # the answer follows
_BEHIND = ("is answer", "is the answer", "are answers", "are the answers")  # the answer precedes
_LEADING = ("be ", "is ", "are ", "=", ": ", "get ", "be\n", "is\n", "are\n", ":\n", "get\n")  # the answer follows
FORM = 0.1  # share of the form in the reward of geometry3k


def numina(text: str, truth: str, seconds: float) -> Judged:
    """Score 1 for an answer that is equal as text, as a number to 1 in 10,000 or as a formula, else 0."""
    answer = stated(text)
    return Judged(float(_equal("numina", answer, truth, seconds)), answer)


def geometry(text: str, truth: str, seconds: float) -> Judged:
    """Score 0.9 for the last box with an equal answer, and 0.1 for a thought in tags with a box behind it."""
    box = last_box(text, ("\\boxed{",))
    answer = "None" if box is None else box[len("\\boxed{") : -1].strip()
    accuracy = float(_equal("geometry", answer, truth, seconds))
    return Judged((1.0 - FORM) * accuracy + FORM * _thought_then_box(text), answer)


def stated(text: str) -> str:
    """Return the answer that a text states, as numina's rule finds it: cut at words and marks, one after the other."""
    for mark in _BEFORE:
        text = _after(text, mark)
    for mark in _BEHIND:
        if (place := text.lower().rfind(mark)) >= 0:
            text = text[:place].strip()
    text = _in_box(text) or text
    if (place := text.lower().rfind(". ")) >= 0:
        text = text[:place].strip()
    for mark in _LEADING:
        text = _after(text, mark)
    return text


def _after(text: str, mark: str) -> str:
    place = text.lower().rfind(mark)
    return text[place + len(mark) :].strip() if place >= 0 else text


def _in_box(text: str) -> str:
    """Return the content of the last box, whatever stands between its word and its bracket."""
    start = next((place for word in ("\\boxed", "\\fbox") if (place := text.rfind(word)) >= 0), -1)
    begin, end = text.find("{", start), closing(text, start) if start >= 0 else -1
    return text[begin + 1 : end].strip() if 0 <= start <= begin and end >= 0 else ""


def _thought_then_box(text: str) -> float:
    if not text.startswith("<think>"):
        return 0.0
    place = len("<think>")
    for mark in ("</think>", "\\boxed{", "}"):
        found = text.find(mark, place)
        if found < 0:
            return 0.0
        place = found + len(mark)
    return 1.0


def _equal(rule: str, answer: str, truth: str, seconds: float) -> bool:
    if not importlib.util.find_spec("sympy"):
        raise UserError(
            Problem("REWARD-E0233", "reward by_source", "no package sympy",
                    "sympy in the image or environment, for the sources of mathematics",
                    "install math-verify, as in requirements.txt")
        )  # fmt: skip
    if len(answer) > LONGEST or len(truth) > LONGEST:
        return answer == truth
    return bool(_worker(seconds).run(rule, answer, truth))


@cache
def _worker(seconds: float) -> Worker:
    return Worker("steps.rewards.graded_math:judge", seconds)
