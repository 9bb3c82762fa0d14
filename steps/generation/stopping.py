"""Texts that end an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import StoppingCriteria, StopStringCriteria

NO_TOKEN = 2**31 - 1  # beyond every vocabulary: the criterion treats it as a token without text


class StopStrings:
    """Texts that end an answer; they are looked for in the answer only, not in its prompt."""

    def __init__(self, tokenizer: Any, texts: Sequence[str]):
        """Raises ValueError for texts that no answer can contain."""
        self.texts = tuple(texts)
        self._tokenizer = tokenizer
        self._criterion: StopStringCriteria | None = None
        self._window = NO_TOKEN
        try:
            self._criterion = StopStringCriteria(tokenizer, list(texts))
        except ValueError:  # a vocabulary of whole words, without a token for any other text: texts are compared
            if not any(self._can_be_written(text) for text in texts):
                raise
        else:
            self._window = self._criterion.maximum_token_len

    def _can_be_written(self, text: str) -> bool:
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return text.strip() in self._tokenizer.decode(ids) and bool(text.strip())

    def met(self, answers: Sequence[Sequence[int]]) -> list[bool]:
        """Return for each answer's tokens whether its last token completes one of the texts."""
        if self._criterion is None:
            return [self._is_in(tokens) and not self._is_in(tokens[:-1]) for tokens in answers]
        windows = torch.full((len(answers), self._window), NO_TOKEN, dtype=torch.long)
        for line, tokens in enumerate(answers):
            last = list(tokens[-self._window :])
            if last:
                windows[line, -len(last) :] = torch.tensor(last)
        return list(self._criterion(windows, None).tolist())

    def _is_in(self, tokens: Sequence[int]) -> bool:
        written = self._tokenizer.decode(list(tokens))
        return any(text in written for text in self.texts)

    def end_of(self, tokens: Sequence[int]) -> int | None:
        """Return the number of tokens up to the one that completes a text; None if none does."""
        starts = range(1, len(tokens) + 1)
        found = self.met([tokens[max(0, end - self._window) : end] for end in starts]) if tokens else []
        return next((end for end, met in zip(starts, found, strict=True) if met), None)

    def before(self, text: str) -> str:
        """Return the part of an answer before the first of the texts."""
        places = [place for stop in self.texts if (place := text.find(stop)) >= 0]
        return text[: min(places)] if places else text


class AnswerStops(StoppingCriteria):
    """The same for `generate`, whose rows of tokens begin with the prompt."""

    def __init__(self, stops: StopStrings, before: int):
        self._stops, self._before = stops, before

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """Return for each row whether it has ended."""
        met = self._stops.met(input_ids[:, self._before :].tolist())
        return torch.tensor(met, dtype=torch.bool, device=input_ids.device)
