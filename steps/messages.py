"""The two texts that tell why a task of KFP failed: the termination message of its pod, and the end of its log.

Both are made from the error as `StepError.as_json` returns it.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Any

from steps.errors import Problem

MESSAGE_BYTES = 2047  # Kubernetes keeps 4096, and Argo puts its own text in front
FIRST_BYTES = 1400  # of them for the first problem, if there are others
FURTHER_LENGTH = 300  # characters of each other problem
COLUMNS = 80  # KFP's viewer shows about 85
LINES = 30
SEPARATORS = ("/\\?&", "=,;:_-.|")  # the first are where a path or a URI is best broken
# What a code means, in the words of docs/operations.md.
MEANINGS = {
    2: "user error",
    3: "refused for security",
    4: "not available",
    5: "not enough resources",
    6: "NaN or infinity",
    70: "bug",
    130: "interrupted",
    143: "stopped from outside",
}
PARTS = ("where", "found", "expected", "why", "fix")


def headline(outcome: dict[str, Any], count: int) -> str:
    """Return how a step ended, such as `finetune ended with code 2 (user error), 3 problems`."""
    meaning = MEANINGS.get(outcome["code"], outcome["class"])
    problems = f", {count} problems" if count > 1 else ""
    return f"{outcome['step']} ended with code {outcome['code']} ({meaning}){problems}"


def termination_message(outcome: dict[str, Any]) -> str:
    """Return the termination message: one line for people, and one line of JSON, together at most 2047 bytes.

    The line for people has the first problem. The JSON has its parts; `further_problems` are the others, each once,
    and `left_out` says how many of them had no room. Long texts lose their middle. `resume_from` is empty if it has no
    room.
    """
    sentences = _sentences(outcome)
    parts = {name: _on_one_line(outcome[name]) for name in PARTS}
    room = MESSAGE_BYTES if len(sentences) == 1 else FIRST_BYTES
    for longest in (2000, 1000, 600, 400, 300, 200, 150, 100, 50, 25):
        told = {name: shortened(text, longest) for name, text in parts.items()}
        first = sentences[0] if told == parts else _sentence(sentences[0].split(" ")[0], told)
        text = _message(outcome, first, told, sentences, 0, "")
        if _bytes(text) <= room:
            break
    resume = _on_one_line(outcome["resume_from"])
    if _bytes(_message(outcome, first, told, sentences, 0, resume)) > MESSAGE_BYTES:
        resume = ""
    for further in range(len(sentences)):
        longer = _message(outcome, first, told, sentences, further, resume)
        if _bytes(longer) > MESSAGE_BYTES:
            break
        text = longer
    return text


def _sentence(code: str, parts: dict[str, str]) -> str:
    return str(Problem(code, parts["where"], parts["found"], parts["expected"], parts["fix"], why=parts["why"]))


def _message(
    outcome: dict[str, Any], first: str, parts: dict[str, str], sentences: list[str], further: int, resume: str
) -> str:
    """Return the message with the parts of the first problem and the sentences of the next `further` ones."""
    told = {
        **{name: outcome[name] for name in ("code", "class", "step")},
        **parts,
        "retryable": outcome["retryable"],
        "resume_from": resume,
        "further_problems": [shortened(sentence, FURTHER_LENGTH) for sentence in sentences[1 : further + 1]],
        "left_out": len(sentences) - 1 - further,
    }
    return f"{headline(outcome, len(sentences))}: {first}\n{json.dumps(told, ensure_ascii=False)}"


def end_of_log(outcome: dict[str, Any]) -> str:
    """Return the last lines of a failed task's log, of at most 80 columns, with `Fix:` at the beginning of a line.

    The last block begins with ERROR and has at most 30 lines. If it cannot hold all problems, they are listed before.
    """
    sentences = _sentences(outcome)
    head = wrapped(f"ERROR {headline(outcome, len(sentences))}")
    every = [_lines(sentence) for sentence in sentences]
    if len(head) + len(_separated(every)) <= LINES:
        return "\n".join([*head, *_separated(every)])
    room = LINES - len(head) - 2  # the last line, and the empty one before it
    shortened = (_lines(sentences[0], longest) for longest in (2000, 600, 400, 200, 100))
    shown = [next(lines for lines in shortened if len(lines) <= room)]
    for lines in every[1:]:
        if len(_separated([*shown, lines])) > room:
            break
        shown.append(lines)
    left = len(every) - len(shown)
    last = f"{left} more: see the list above." if left else "The whole text is above."
    whole = [f"All problems of {outcome['step']}:", *_separated(every)]
    return "\n".join([*whole, "", *head, *_separated(shown), "", last])


def _lines(sentence: str, longest: int = 0) -> list[str]:
    """Return the lines of a problem; with `longest`, both of its sentences are shortened to that many characters."""
    told, mark, fix = sentence.rpartition(" Fix: ")
    texts = [told, f"Fix: {fix}"] if mark else [sentence]
    return [line for text in texts for line in wrapped(shortened(text, longest) if longest else text)]


def _separated(blocks: list[list[str]]) -> list[str]:
    return [line for number, lines in enumerate(blocks) for line in (["", *lines] if number else lines)]


def wrapped(text: str) -> list[str]:
    """Break a text into lines of at most 80 columns, between words, and in longer words behind a separator."""
    lines, line = [], ""
    for word in text.split():
        joined = f"{line} {word}" if line else word
        if columns(joined) <= COLUMNS:
            line = joined
            continue
        lines += [line] if line else []
        while columns(word) > COLUMNS:
            end = _end_of_line(word)
            lines.append(word[:end])
            word = word[end:]
        line = word
    return [*lines, line]


def shortened(text: str, longest: int) -> str:
    """Leave out the middle of a text that is too long."""
    if len(text) <= longest:
        return text
    tail = longest // 3
    return f"{text[: longest - tail - 1]}…{text[len(text) - tail :]}"


def columns(text: str) -> int:
    """Return the width of a text on a screen, where Chinese characters take two columns."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _end_of_line(word: str) -> int:
    """Return after how many characters to break a word that is longer than a line."""
    most, used = 0, 0
    for character in word:
        used += columns(character)
        if used > COLUMNS:
            break
        most += 1
    for separators in SEPARATORS:
        behind = max(word.rfind(separator, 0, most) for separator in separators) + 1
        if behind > most // 2:
            return behind
    return most


def _sentences(outcome: dict[str, Any]) -> list[str]:
    """Return the problems, each once and on one line."""
    return list(dict.fromkeys(_on_one_line(problem) for problem in outcome["problems"]))


def _on_one_line(text: str) -> str:
    """Remove control characters, and what UTF-8 cannot write, such as parts of odd file names."""
    printable = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)
    return " ".join(printable.encode("utf-8", "replace").decode().split())


def _bytes(text: str) -> int:
    return len(text.encode())
