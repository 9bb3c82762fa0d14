"""Answers told apart by the tokens around them: a marker before each answer, and one before each question.

    <question marker> 2 + 2? <answer marker> 4 <question marker> 3 + 3? <answer marker> 6
                                             ^ learned                                ^ learned

As TRL's former DataCollatorForCompletionOnlyLM, with one difference: there the n-th question was paired with the n-th
answer, so that two questions in a row cost an answer; here an answer goes up to the next question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from steps.errors import Problem, UserError
from steps.params.data import Preprocessing
from steps.prepare_data.write.tokenising import NO_LOSS, Tokens


@dataclass(frozen=True)
class Markers:
    """The tokens that stand before answers and before questions."""

    response: list[int]
    instruction: list[int]
    """Empty when there is none: then only what follows the last answer marker is learned."""

    def learn(self, tokens: Tokens) -> Tokens:
        """Take the loss off all but the answers; a row without the markers is left without loss."""
        if len(tokens.ids) == 0:
            return tokens
        answers, rows = _find(self.response, tokens)
        answers += len(self.response)
        if self.instruction:
            learned = _between(answers, *_find(self.instruction, tokens), tokens)
        else:
            first = tokens.starts[1:].copy()  # the row's end: nothing is learned
            first[rows] = answers  # they rise, so the last one of a row stays
            learned = np.arange(len(tokens.ids)) >= np.repeat(first, tokens.lengths)
        return Tokens(tokens.ids, np.where(learned, tokens.labels, np.int32(NO_LOSS)), tokens.lengths)


def read_markers(preprocessing: Preprocessing, tokenizer: Any) -> Markers | None:
    """Turn response_template and instruction_template into tokens; None when they are not set.

    Raises UserError when one is no tokens of this tokenizer.
    """
    if not preprocessing.response_template:
        return None
    read: dict[str, list[int]] = {}
    for name in ("response_template", "instruction_template"):
        text = getattr(preprocessing, name)
        if not text:
            read[name] = []
        elif preprocessing.comma_separated_template:
            read[name] = [int(number) for number in text.split(",")]
        else:
            read[name] = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        known = len(tokenizer)
        if text and (not read[name] or max(read[name]) >= known):
            raise UserError(
                Problem("DATA-E0810", name, repr(text[:60]), f"one or more of the tokenizer's {known} tokens",
                        "take the ids from the model's own tokenizer")
            )  # fmt: skip
    return Markers(read["response_template"], read["instruction_template"])


def _between(answers: np.ndarray, questions: np.ndarray, rows: np.ndarray, tokens: Tokens) -> np.ndarray:
    """Say for each token whether the last thing before it in its row was an answer marker."""
    size = len(tokens.ids)
    started, ended = np.full(size, -1), np.full(size, -1)
    answers = answers[answers < size]
    started[answers] = answers
    starts = tokens.starts[:-1][tokens.lengths > 0]
    ended[starts] = starts
    ended[questions] = questions
    # Where an answer marker ends just where a question or a row begins, nothing was answered: the end wins.
    learned = np.maximum.accumulate(started) > np.maximum.accumulate(ended)
    asked = np.zeros(len(tokens), bool)
    asked[rows] = True
    return learned & np.repeat(asked, tokens.lengths)


def _find(marker: list[int], tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
    """Where a marker begins, in rising order, and in which row; one that crosses a row's end is none."""
    candidates = np.flatnonzero(tokens.ids[: max(len(tokens.ids) - len(marker) + 1, 0)] == marker[0])
    for place, token in enumerate(marker):
        candidates = candidates[tokens.ids[candidates + place] == token]
    starts = tokens.starts
    rows = np.searchsorted(starts, candidates, "right") - 1
    inside = candidates + len(marker) <= starts[rows + 1]
    return candidates[inside], rows[inside]
