"""Find answers by marker tokens: one before each answer, and optionally one before each question.

    <question marker> 2 + 2? <answer marker> 4 <question marker> 3 + 3? <answer marker> 6
                                             ^ learned                                ^ learned

As in TRL's former DataCollatorForCompletionOnlyLM, with one difference: it paired the n-th question with the n-th
answer, so that two consecutive questions lost an answer; here an answer ends at the next question.
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
    """The tokens before answers and before questions."""

    response: list[int]
    instruction: list[int]
    """If empty, only the tokens after the last answer marker are learned."""

    def learn(self, tokens: Tokens) -> Tokens:
        """Mask the loss of everything but the answers; a row without the markers has no loss."""
        if len(tokens.ids) == 0:
            return tokens
        answers, rows = _find(self.response, tokens)
        answers += len(self.response)
        if self.instruction:
            learned = _between(answers, *_find(self.instruction, tokens), tokens)
        else:
            first = tokens.starts[1:].copy()  # the end of the row: nothing is learned
            first[rows] = answers  # they are sorted, so the last one of a row remains
            learned = np.arange(len(tokens.ids)) >= np.repeat(first, tokens.lengths)
        return Tokens(tokens.ids, np.where(learned, tokens.labels, np.int32(NO_LOSS)), tokens.lengths)


def read_markers(preprocessing: Preprocessing, tokenizer: Any) -> Markers | None:
    """Convert response_template and instruction_template to tokens; None if they are not set.

    Raises UserError if one has no tokens, or ids that the tokenizer does not have.
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
    """Return for each token whether an answer marker is the last marker before it in its row."""
    size = len(tokens.ids)
    started, ended = np.full(size, -1), np.full(size, -1)
    answers = answers[answers < size]
    started[answers] = answers
    starts = tokens.starts[:-1][tokens.lengths > 0]
    ended[starts] = starts
    ended[questions] = questions
    # If an answer marker ends exactly where a question or a row begins, there is no answer.
    learned = np.maximum.accumulate(started) > np.maximum.accumulate(ended)
    asked = np.zeros(len(tokens), bool)
    asked[rows] = True
    return learned & np.repeat(asked, tokens.lengths)


def _find(marker: list[int], tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted positions of a marker, and their rows; a match across the end of a row does not count."""
    candidates = np.flatnonzero(tokens.ids[: max(len(tokens.ids) - len(marker) + 1, 0)] == marker[0])
    for place, token in enumerate(marker):
        candidates = candidates[tokens.ids[candidates + place] == token]
    starts = tokens.starts
    rows = np.searchsorted(starts, candidates, "right") - 1
    inside = candidates + len(marker) <= starts[rows + 1]
    return candidates[inside], rows[inside]
