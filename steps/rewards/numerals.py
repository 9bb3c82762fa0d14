"""Numbers as people and models write them, read exactly.

"1,234.5", "1 234,5", "3/4", "1 3/4", "½", "\\frac{3}{4}", "1.2 × 10^5", "1e5", "50 %", "$5", "−3 km".
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

LONGEST = 400  # digits, and the largest exponent of ten: more is no answer but an attack
_SPACES = "\u00a0\u2007\u2009\u202f"  # they separate thousands; ordinary spaces do so too, between groups of three
_DIGITS = rf"\d{{1,3}}(?:[ ,.'’_{_SPACES}]\d{{3}})+(?![\d])(?:[.,]\d+)?|\d+(?:[.,]\d+)?|[.,]\d+"
_NUMBER = re.compile(
    rf"(?P<sign>[-+])?\s*(?P<currency>[$€£¥])?\s*(?P<sign2>(?<=[$€£¥])-)?(?P<digits>{_DIGITS})"
    r"(?:(?:e|E|\s*[×*x]\s*10\s*(?:\^|\*\*))\{?(?P<power>[-+]?\d{1,6})\}?)?"
)
_RATIO = re.compile(r"\s*/\s*(\d+(?:\.\d+)?)")
_POWER = re.compile(r"\s*(?:\^|\*\*)\s*\{?\s*([-+]?\d{1,2})(?!\d)\s*\}?")
_SCALE = re.compile(r"\s*(thousand|million|billion|trillion)s?\b", re.IGNORECASE)
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MIXED = re.compile(r"\s+(\d{1,9})\s*/\s*(\d{1,9})")
_UNIT = re.compile(r"\s*(%|‰|°\s?[CF]?|[^\W\d_]+(?:[/·^²³][^\W_]*)*)?")
_LATEX_RATIO = re.compile(r"\\[dt]?frac\s*\{\s*(-?[\d.,]{1,60})\s*\}\s*\{\s*(-?[\d.,]{1,60})\s*\}")
_LATEX = (("\\left", ""), ("\\right", ""), ("\\times", "×"), ("\\cdot", "×"), ("\\%", "%"), ("\\$", "$"), ("\\,", " "),
          ("\\!", ""), ("\\;", " "), ("{,}", ","), ("\\ ", " "), ("^{\\circ}", "°"), ("^\\circ", "°"))  # fmt: skip
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|unit)\s*\{([^{}]{0,200})\}")


@dataclass(frozen=True)
class Quantity:
    """A number with its unit."""

    value: Fraction
    """As written: 50 for 50 %."""
    unit: str = ""
    """In lower case, singular; "%" for percent."""


def last_quantity(text: str, decimal_comma: bool = False) -> Quantity | None:
    """Return the last number of a text, which is where answers have it ("x = 2 + 3 = 5 apples"); None without one."""
    found = None
    text = _plain(text)
    place = 0
    while match := _NUMBER.search(text, place):
        place = match.end()
        sign = match["sign"] if not _joined(text, match.start()) else None
        quantity, place = _read(text, match, place, sign or match["sign2"], decimal_comma)
        found = quantity or found
    return found


def same(answer: Quantity, truth: Quantity, relative: Fraction, absolute: Fraction) -> bool:
    """Whether two quantities are the same within |answer - truth| <= max(relative × |truth|, absolute).

    Percent: where both are percentages, or neither is, their numbers are compared; where one is, it may be meant as
    50 or as 0.5. Other units must be equal where both have one; nothing is converted.
    """
    percent = [one.unit in ("%", "percent") for one in (answer, truth)]
    if not any(percent) and answer.unit and truth.unit and answer.unit != truth.unit:
        return False
    readings = [answer.value]
    if percent[0] != percent[1]:
        readings.append(answer.value / 100 if percent[0] else answer.value * 100)
    limit = max(relative * abs(truth.value), absolute)
    return any(abs(reading - truth.value) <= limit for reading in readings)


def _read(
    text: str, match: re.Match[str], place: int, sign: str | None, decimal_comma: bool
) -> tuple[Quantity | None, int]:
    """Read the number at a match, with what belongs to it behind it; return it and where it ends."""
    value = _value(match["digits"], decimal_comma)
    power = int(match["power"] or 0)
    if value is None or abs(power) > LONGEST:
        return None, place
    value *= Fraction(10) ** power
    if (raised := _POWER.match(text, place)) and value.denominator == 1 and abs(value) <= 1000:
        exponent = int(raised[1])
        if not value and exponent < 0:
            return None, raised.end()
        value, place = value**exponent, raised.end()
    elif (mixed := _MIXED.match(text, place)) and value.denominator == 1 and int(mixed[2]):
        value, place = value + Fraction(int(mixed[1]), int(mixed[2])), mixed.end()
    elif ratio := _RATIO.match(text, place):
        below = _value(ratio[1], False)
        if below is None or not below:
            return None, ratio.end()
        value, place = value / below, ratio.end()
    if scale := _SCALE.match(text, place):
        value, place = value * _SCALES[scale[1].lower()], scale.end()
    unit = _UNIT.match(text, place)
    name = (unit[1] or "").lower().replace(" ", "") if unit else ""
    name = name if len(name) <= 2 or not name.endswith("s") else name.removesuffix("s")
    name = name or {"$": "$", "€": "€", "£": "£", "¥": "¥"}.get(match["currency"] or "", "")
    return Quantity(-value if sign == "-" else value, _UNIT_NAMES.get(name, name)), place


# Words that follow a number without being its unit, and names of the same unit.
_UNIT_NAMES = {
    "dollar": "$", "usd": "$", "euro": "€", "eur": "€", "pound": "£", "gbp": "£", "percent": "%",
    "and": "", "or": "", "is": "", "are": "", "i": "", "in": "", "of": "", "a": "", "an": "", "the": "", "so": "",
    "to": "", "if": "", "because": "", "since": "", "which": "", "total": "", "altogether": "", "per": "",
}  # fmt: skip


def _joined(text: str, place: int) -> bool:
    """Whether a sign at this place is a hyphen or an operator: "5-3", "covid-19", "x - 3"."""
    before = text[:place].rstrip(" ")[-1:] if place and text[place - 1] == " " else text[place - 1 : place]
    return bool(before) and (before.isalnum() or before in ")]}")


def _value(digits: str, decimal_comma: bool) -> Fraction | None:
    """Read digits with separators of thousands and a decimal point or comma."""
    if len(digits) > LONGEST:
        return None
    for mark in (*_SPACES, " ", "'", "’", "_"):
        digits = digits.replace(mark, "")
    point, thousands = (",", ".") if decimal_comma else (".", ",")
    if "," in digits and "." in digits:  # the last one is the decimal mark
        point, thousands = (",", ".") if digits.rfind(",") > digits.rfind(".") else (".", ",")
    elif digits.count(point) > 1 or (digits.count(thousands) == 1 and len(digits.split(thousands)[1]) != 3):
        point, thousands = thousands, point
    digits = digits.replace(thousands, "").replace(point, ".")
    try:
        return Fraction(digits if not digits.startswith(".") else "0" + digits)
    except (ValueError, ZeroDivisionError):
        return None


def _plain(text: str) -> str:
    """Return a text in which LaTeX, Unicode's fractions, digits and minus signs are written in ASCII."""
    for mark, plain in _LATEX:
        text = text.replace(mark, plain)
    text = _LATEX_RATIO.sub(r" \1/\2 ", _TEXT.sub(r" \1 ", text))
    made = []
    for sign in text:
        if sign in "−–‒﹣－":
            made.append("-")
        elif sign.isascii():
            made.append(sign)
        elif unicodedata.category(sign) == "Nd":
            made.append(str(unicodedata.digit(sign)))
        elif unicodedata.decomposition(sign).startswith("<fraction>"):
            parts = unicodedata.normalize("NFKC", sign).replace("\u2044", "/")
            made.append(f" {parts} " if not parts.endswith("/") else sign)
        else:
            made.append("/" if sign == "\u2044" else sign)
    return "".join(made)
