"""Reward of form: <think>…</think> and then <answer>…</answer>, each tag once, and nothing else.

White space around and between the blocks is free, no block may be blank. After the last block only one line `Final
Answer: …` may stand, which Azure's example asks for; any other text there scores 0.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from steps.params.group import Group
from steps.rewards.library import Function, Judged, by_row

_FINAL = re.compile(r"(?i)[*_#\s]*final\s+answer[^\n]*")


class Options(Group):
    """How a completion must be built."""

    tags: list[Annotated[str, Field(pattern=r"^[A-Za-z][\w-]*$")]] = Field(["think", "answer"], min_length=1)
    """Names of the blocks, in their order."""

    opened_by_prompt: bool = False
    """The chat template puts the first opening tag into the prompt, so that completions start inside the block."""

    partial: bool = False
    """Reward the share of tags that stand once and in their order, where the form is not complete."""


def columns(options: Options) -> tuple[str, ...]:
    """Return no column: only the completion is read."""
    return ()


def reward(options: Options) -> Function:
    """Return the reward: 1 for the form, 0 for any other text, or a share of the tags."""
    return by_row(lambda text: Judged(_score(text, options)))


def _score(text: str, options: Options) -> float:
    marks = [mark for tag in options.tags for mark in (f"<{tag}>", f"</{tag}>")]
    if options.opened_by_prompt and marks[0] not in text:
        text = marks[0] + text
    places = [text.find(mark) for mark in marks]
    once = [text.count(mark) == 1 for mark in marks]
    ordered = [place >= 0 and all(other < place for other in places[:index]) for index, place in enumerate(places)]
    right = [one and after for one, after in zip(once, ordered, strict=True)]
    if all(right) and _only_blocks(text, marks, places):
        return 1.0
    # Every tag with text outside the blocks is still not the form: less than 1.
    return min(sum(right), len(marks) - 1) / len(marks) if options.partial else 0.0


def _only_blocks(text: str, marks: list[str], places: list[int]) -> bool:
    """Whether all text is inside the blocks, and some in each."""
    ends = [place + len(mark) for place, mark in zip(places, marks, strict=True)]
    inner = all(text[ends[index] : places[index + 1]].strip() for index in range(0, len(marks), 2))
    between = any(text[ends[index] : places[index + 1]].strip() for index in range(1, len(marks) - 1, 2))
    after = text[ends[-1] :].strip()
    return inner and not between and not text[: places[0]].strip() and (not after or bool(_FINAL.fullmatch(after)))
