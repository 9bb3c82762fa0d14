"""LaTeX as plain text in which sympy finds numbers, operators and names: \\frac{\\pi}{2} → pi/2."""

from __future__ import annotations

import re

FUNCTIONS = (
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp lim max min det gcd deg dim ker sup inf"
)
_SYMBOLS = {
    "pi": "pi", "infty": "inf", "cup": "U", "cdot": "*", "times": "*", "div": "÷", "pm": "±", "mp": "∓", "le": "≤",
    "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠", "neq": "≠", "in": "∈", "cap": "∩", "circ": "∘", "degree": "°",
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "theta": "θ", "lambda": "λ", "mu": "μ", "sigma": "σ",
    "phi": "ϕ", "varphi": "φ", "omega": "ω", "angle": "∠", "triangle": "△", "emptyset": "∅", "to": "→", "ldots": "…",
    "dots": "…", "cdots": "⋯", "quad": "  ", "qquad": "    ", "sim": "∼", "approx": "≈", "equiv": "≡", "ast": "∗",
    **{name: name for name in FUNCTIONS.split()},
}  # fmt: skip
_CHARACTERS = {",": " ", ":": " ", ";": " ", " ": " ", "!": "", "\\": "\n", "{": "{", "}": "}", "%": "%", "$": "$",
               "#": "#", "&": "&", "_": "_"}  # fmt: skip
_TOKEN = re.compile(r"\\([A-Za-z]+)\s*|\\(.)|([{}])|([^\\{}])", re.DOTALL)
DEEPEST = 100  # brackets within brackets


def latex_to_text(text: str) -> str:
    """Return a formula as text; commands that are not known are left out, their arguments stay.

    A mixed number stays one (`7\\frac{3}{4}` → `7 3/4`). A text with too many brackets within each other is returned
    as it is.
    """
    text = re.sub(r"\\[td]?frac", r" \\frac", text)
    if "%" in text:
        text = re.sub(r"(?<!\\)%.*", "", text)  # a comment
    tokens = list(_TOKEN.finditer(text.replace("~", " ")))
    try:
        made, _ = _read(tokens, 0, 0)
    except RecursionError:
        return text
    return made.replace("$", "").strip()


def _read(tokens: list[re.Match[str]], place: int, depth: int, once: bool = False) -> tuple[str, int]:
    """Return the text from a token up to the bracket that closes it, or of one argument, and the place behind it."""
    if depth > DEEPEST:
        raise RecursionError
    made: list[str] = []
    while place < len(tokens):
        name, character, bracket, plain = tokens[place].groups()
        place += 1
        if once and plain and plain.isspace():
            continue
        if bracket == "}":
            if depth:
                break
            continue  # it closes nothing
        if bracket:
            inner, place = _read(tokens, place, depth + 1)
            made.append(inner)
        elif name:
            inner, place = _command(name, tokens, place, depth)
            made.append(inner)
        else:
            made.append(plain if plain else _CHARACTERS.get(character, ""))
        if once:
            break
    return "".join(made), place


def _command(name: str, tokens: list[re.Match[str]], place: int, depth: int) -> tuple[str, int]:
    if name == "frac":
        above, place = _read(tokens, place, depth + 1, once=True)
        below, place = _read(tokens, place, depth + 1, once=True)
        return f"{above}/{below}", place
    if name == "sqrt":
        if place < len(tokens) and tokens[place][4] == "[":  # the degree of a root is left out, as by verl
            ends = [end for end in range(place, len(tokens)) if tokens[end][4] == "]"]
            place = ends[0] + 1 if ends else place
        inner, place = _read(tokens, place, depth + 1, once=True)
        return f"sqrt({inner})", place
    if name in _SYMBOLS:
        return _SYMBOLS[name], place
    return "", place
