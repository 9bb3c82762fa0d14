"""Equality of two answers by the rules of verl's functions for numina and geometry3k.

Runs in a worker process (`worker.py`), which ends it at its limits. verl lets Python evaluate what a model wrote; here
a formula is evaluated only if every name in it is a mathematical one (`readable`).
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import keyword
import math
import re
import unicodedata
from typing import Any

import sympy
from sympy.parsing.sympy_parser import (
    implicit_multiplication_application,
    parse_expr,
    standard_transformations,
)

from steps.rewards.latex_forms import plain_form
from steps.rewards.latex_text import latex_to_text

TOLERANCE = 1e-4  # of numbers, relative
_TEXT = re.compile(r"^\\text\{(.+?)\}$")
_WORDS = (("\\%", "%"), ("\\$", "$"), ("$", ""), ("%", ""), (" or ", " , "), (" and ", " , "),
          ("million", "*10^6"), ("billion", "*10^9"), ("trillion", "*10^12"))  # fmt: skip
UNITS = "degree cm centimeter meter mile second minute hour day week month year foot feet inch yard liter"
_THOUSANDS = re.compile(r"(\d),(\d\d\d)($|\D)")
_FRACTION = re.compile(r"^-?[0-9]+.?/0*[1-9][0-9]*.?$")
_TOO_HARD = re.compile(r"\^[{(]|\^[0-9]+\^|\^[0-9][0-9]+")  # powers that sympy may take for ever to work out
_ENDS = "()[]"
NAMES = (
    "sqrt cbrt root sin cos tan cot sec csc asin acos atan acot arcsin arccos arctan sinh cosh tanh log ln exp pi oo "
    "zoo nan abs Abs factorial binomial floor ceiling sign Min Max min max gcd lcm Rational Integer Float Matrix "
    "Interval FiniteSet Union Point Tuple re im arg conjugate gamma zeta beta"
)
_STRANGE = re.compile(r"""["'`\\:;@#$?_]|\.\s*[^\W\d]""")
_ARITHMETIC = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Constant, ast.Tuple, ast.List, ast.Load, ast.operator,
               ast.unaryop)  # fmt: skip


def judge(rule: str, answer: str, right: str) -> bool:
    """Return whether an answer is the right one by the rule of numina or of geometry."""
    if _graded(answer, right, rule == "geometry"):
        return True
    if rule == "geometry":
        return False
    values = (math.pi, 3.14) if "\\pi" in answer or "\\pi" in right else (math.pi,)
    with contextlib.suppress(Exception):  # as verl: what cannot be compared is not equal
        made = [_close(answer, right, pi) for pi in values]
        return any(made)
    return False


def _graded(answer: str, right: str, tight: bool) -> bool:
    """Compare as the data set PRM800K was graded; `tight` leaves out blanks and brackets, as mathruler does."""
    if _mathd_form(answer) == _mathd_form(right):
        return True
    ours, theirs = _form(answer, tight), _form(right, tight)
    if ours == theirs:
        return True
    if not ours:
        return False
    parts, right_parts = _elements(ours), _elements(theirs)
    if len(parts) != len(right_parts):
        return False
    if len(right_parts) > 1 and (ours[0], ours[-1]) != (theirs[0], theirs[-1]):
        return False
    return all(map(_element_equals, parts, right_parts))


def _mathd_form(text: str) -> str:
    text = text.strip()
    if match := _TEXT.search(text):
        text = match[1].strip()
    try:
        return plain_form(text)
    except ValueError:
        return text


def _form(text: str, tight: bool) -> str:
    if match := _TEXT.search(text):
        text = match[1]
    for old, new in _WORDS:
        text = text.replace(old, new)
    for unit in UNITS.split()[: -1 if tight else None]:  # mathruler knows no liters
        text = re.sub(unit + r"(es)?(s)? *(\^[0-9]+)?", "", text)
    text = re.sub(r"\^ *\\circ", "", text)
    if text[:1] == "{" and text[-1:] == "}":
        text = text[1:-1]
    text = re.sub(r",\\! *", "", text)
    if (number := _whole(text)) is not None:
        text = str(number)
    if "\\" in text:
        text = latex_to_text(text)
    text = re.sub(r"([0-9]) +([0-9])", r"\1+\2", re.sub("- *", "-", text))  # 7 3/4 is 7+3/4
    if tight:
        text = re.sub("[ {}]", "", text)
    text = text.lower()
    if _whole(_without_thousands(text)) is not None:
        text = str(int(float(text.replace(",", ""))))
    return text


def _whole(text: str) -> int | None:
    """Return the whole number that a text is; None for any other text."""
    try:
        number = float(text)
        return round(number) if abs(number - round(number)) <= 1e-7 else None
    except (ValueError, OverflowError):
        return None


def _without_thousands(text: str) -> str:
    while (shorter := _THOUSANDS.sub(r"\1\2\3", text)) != text:
        text = shorter
    return text


def _elements(text: str) -> list[str]:
    text = _without_thousands(text)
    inner = text[1:-1]
    if len(text) > 2 and text[0] in _ENDS and text[-1] in _ENDS and not any(end in inner for end in _ENDS):
        return [part.strip() for part in inner.split(",")]
    return [text] if text else []


def _element_equals(ours: str, right: str) -> bool:
    if _FRACTION.search(ours) and _FRACTION.search(right):
        return ours == right  # one that can be reduced is wrong
    whole, right_whole = (_whole(_without_thousands(text)) is not None for text in (ours, right))
    if whole != right_whole:
        return False
    difference = f"({right})-({ours})"
    letters = {letter for letter in difference.replace("sqrt", "").replace("frac", "") if letter.isalpha()}
    if len(letters) > 2 or _TOO_HARD.search(difference):
        return False
    with contextlib.suppress(Exception):  # sympy raises anything on a text that is no formula
        made = _parsed(difference.replace("^", "**"))
        return bool(sympy.simplify(made) == 0)
    return False


def _close(answer: Any, right: Any, pi: float = math.pi) -> bool:
    """Compare as texts, numbers and lists. Raises ValueError for a number of another base that is none."""
    ours, theirs = _evaluated(answer, pi), _evaluated(right, pi)
    if isinstance(ours, str):
        ours = ours[:1000]
        if isinstance(theirs, str) and (
            ours.strip().lower() == theirs.strip().lower() or ours.replace(" ", "") == theirs.replace(" ", "")
        ):
            return True
    number, right_number = _number(ours), _number(theirs)
    if number is not None and right_number is not None:
        readings = (right_number / 100, right_number, right_number * 100)  # a percentage may be meant
        return any(math.isclose(one, number, rel_tol=TOLERANCE) for one in readings)
    if not ours and ours not in (0, False):
        return False
    return _same_list(_brackets(str(ours).strip()), str(theirs).strip())


def _same_list(ours: str, theirs: str) -> bool:
    bare, right_bare = ours, theirs
    if (ours[:1] == "[" and ours[-1:] == "]" and theirs[:1] != "(") or (
        ours[:1] == "(" and ours[-1:] == ")" and theirs[:1] != "["
    ):
        bare, right_bare = bare.strip("[]()"), right_bare.strip("[]()")
    if re.sub(r"[{}()]", "", bare) == re.sub(r"[{}()]", "", right_bare):
        return True
    ends = ours[:1] + ours[-1:], theirs[:1] + theirs[-1:]
    if ours and ends[0] == ends[1] and ours[0] in "([" and ours[-1] in ")]" and _all_close(ours[1:-1], theirs[1:-1]):
        return True
    # verl 0.9.1 goes on to compare as formulas, but its limit of time raises an error there, so that none is equal.
    return "," in ours and "," in theirs and _all_close(ours, theirs)


def _all_close(ours: str, theirs: str) -> bool:
    parts, right_parts = ours.split(","), theirs.split(",")
    return len(parts) == len(right_parts) and all(map(_close, map(str.strip, parts), map(str.strip, right_parts)))


def _evaluated(text: Any, pi: float) -> Any:
    """Return an answer without $ and %, a number of another base as if it had none, and π as a number."""
    if re.match(r"\$\d+(\.\d+)?", text):
        return text[1:]
    if re.match(r"^\d+(\.\d+)?\\?%$", text):
        return text.replace("\\%", "").replace("%", "")
    if "_" in text:
        return int(float(text.split("_")[0]))
    if "\\pi" not in text:
        return text
    text = re.sub(r"(?<=\d)\\pi", f"*{pi}", text)
    text = text.replace("\\pi", f"1*{pi}")
    with contextlib.suppress(Exception):  # as verl: a text that is no arithmetic stays one
        tree = ast.parse(text.strip(), mode="eval")
        if all(isinstance(node, _ARITHMETIC) for node in ast.walk(tree)):
            return eval(compile(tree, "answer", "eval"), {"__builtins__": {}})
    return text


def _number(value: Any) -> float | None:
    try:
        text = str(value)
        return float(text.replace("{,}", "") if "{,}" in text else text.replace(",", ""))
    except ValueError:
        return None


def _brackets(text: str) -> str:
    """Write sympy's intervals with brackets."""
    for name, ends in (("Interval", "[]"), ("Interval.Ropen", "[)"), ("Interval.Lopen", "(]"), ("Interval.open", "()")):
        if match := re.match(rf"^{re.escape(name)}\((.*)\)$", text):
            return ends[0] + match[1] + ends[1]
    return text


def _parsed(text: str) -> Any:
    if not readable(text):
        raise ValueError(text)
    return parse_expr(text, transformations=(*standard_transformations, implicit_multiplication_application))


def readable(text: str) -> bool:
    """Return whether a text has only numbers, operators, and names of variables and mathematical functions.

    sympy gives a text to Python's eval, with all of sympy and Python's own functions in reach.
    """
    if _STRANGE.search(text):
        return False
    names = re.findall(r"[^\W\d]\w*", unicodedata.normalize("NFKC", text))
    known = NAMES.split()
    return all(
        len(name) == 1
        or name in known
        or not (hasattr(sympy, name) or hasattr(builtins, name) or keyword.iskeyword(name))
        for name in names
    )
