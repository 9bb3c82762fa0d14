"""Reward of form for reasoning models: one <think>…</think> at the start, then the answer as free text."""

from __future__ import annotations

from steps.params.group import Group
from steps.rewards.library import Function, Judged, by_row

_OPEN, _CLOSE = "<think>", "</think>"


class Options(Group):
    """How a completion must start."""

    opened_by_prompt: bool = False
    """The chat template puts <think> into the prompt, so that completions start inside the block."""


def columns(options: Options) -> tuple[str, ...]:
    """Return no column: only the completion is read."""
    return ()


def reward(options: Options) -> Function:
    """Return the reward: 1 for one thought and then an answer, neither of them blank; otherwise 0."""

    def judge(text: str) -> Judged:
        if options.opened_by_prompt and _OPEN not in text:
            text = _OPEN + text
        text = text.strip()
        if text.count(_OPEN) != 1 or text.count(_CLOSE) != 1 or not text.startswith(_OPEN):
            return Judged(0.0)
        thought, answer = text.removeprefix(_OPEN).split(_CLOSE)
        return Judged(float(bool(thought.strip() and answer.strip())))

    return by_row(judge)
