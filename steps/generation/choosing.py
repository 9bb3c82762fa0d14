"""Choose the next token of every row from the logits of a model.

transformers' own processors apply penalties and samplers, each row with its own tokens and without padding, so that an
answer does not depend on the rows beside it. A draw depends on the row's seed and on the number of its tokens only: one
uniform number each, looked up in the cumulated probabilities in the order of token ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor
from transformers.generation import logits_process

from steps.errors import NumericError, Problem
from steps.generation.tokens import Answer, How, Prompt

SAMPLERS = tuple(
    getattr(logits_process, f"{name}LogitsWarper")
    for name in ("Temperature", "TopK", "TopP", "MinP", "TopH", "Typical", "Epsilon", "Eta")
)
# They look at the logits only, not at the tokens before, so that they process all rows at once.
OF_LOGITS = (
    *SAMPLERS,
    logits_process.LogitNormalization,
    logits_process.InfNanRemoveLogitsProcessor,
    logits_process.SuppressTokensLogitsProcessor,
)
NEUTRAL: dict[str, Any] = {
    "temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": None, "top_h": None, "typical_p": 1.0,
    "epsilon_cutoff": 0.0, "eta_cutoff": 0.0,
}  # fmt: skip


@dataclass(eq=False)
class Row:
    """A row that is being answered."""

    numbers: list[int]
    """Its places among the prompts; several if their answers are equal."""
    prompt: Prompt
    draws: np.random.Generator | None = None
    processors: list[Any] = field(default_factory=list)
    """Those that look at the row's own tokens."""
    history: Any = None
    """Tokens of prompt and answer as a tensor, for these processors."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: bool = False
    stopped: bool = False

    @property
    def cached(self) -> int:
        """Number of its tokens in the cache: all but the last one, which the next step reads."""
        return len(self.prompt.ids) + len(self.tokens) - 1

    @property
    def longest(self) -> int:
        """Length of the prompt with the longest possible answer."""
        return len(self.prompt.ids) + self.prompt.most

    def answer(self, with_logprobs: bool) -> Answer:
        """Return the tokens so far as the answer."""
        return Answer(tuple(self.tokens), self.stopped, tuple(self.logprobs) if with_logprobs else None)


class Chooser:
    """Chooses tokens, and says which rows have ended."""

    def __init__(self, model: Any, how: How):
        self._model, self._how = model, how
        self._sampled = bool(how.config.do_sample)
        self._made: dict[Any, tuple[list[Any], list[Any]]] = {}

    def begin(self, numbers: list[int], prompt: Prompt) -> Row:
        """Make the row of a prompt."""
        row = Row(numbers, prompt, draws_of(prompt) if self._sampled else None)
        row.processors = self._processors(prompt)[0]
        if row.processors:
            row.history = torch.zeros(row.longest, dtype=torch.long, device=self._model.device)
            row.history[: len(prompt.ids)] = torch.tensor(prompt.ids)
        return row

    def choose(self, logits: torch.Tensor, rows: Sequence[Row]) -> None:
        """Append a token to every row; logits are (rows, vocabulary). Raises NumericError if they are not numbers."""
        raw = logits.float()
        scores = raw
        if any(row.processors for row in rows):
            scores = torch.cat([_processed(row, raw[line : line + 1]) for line, row in enumerate(rows)])
        for processor in self._processors(rows[0].prompt)[1]:
            scores = processor(None, scores)
        chosen = drawn(scores, [row.draws for row in rows]) if self._sampled else scores.argmax(dim=-1)
        told = raw.gather(1, chosen[:, None])[:, 0]
        if self._how.logprobs:
            told = told - raw.logsumexp(dim=-1)
        tokens, values = chosen.tolist(), told.tolist()
        if self._how.numbers_only and any(value != value for value in values):
            raise _not_numbers()
        for row, token, value in zip(rows, tokens, values, strict=True):
            if row.history is not None:
                row.history[len(row.prompt.ids) + len(row.tokens)] = token
            row.tokens.append(token)
            row.logprobs.append(value)
        self._end(rows)

    def _end(self, rows: Sequence[Row]) -> None:
        met = self._how.stops.met([row.tokens for row in rows]) if self._how.stops else [False] * len(rows)
        for row, stop in zip(rows, met, strict=True):
            row.stopped = stop or row.tokens[-1] in self._how.ends
            row.ended = row.stopped or len(row.tokens) >= row.prompt.most

    def _processors(self, prompt: Prompt) -> tuple[list[Any], list[Any]]:
        """Return the processors of a row that look at its tokens, and those behind them that look at logits only."""
        of_prompt = self._how.config.encoder_repetition_penalty, self._how.config.encoder_no_repeat_ngram_size
        key = prompt.ids if of_prompt not in ((1.0, 0), (None, None)) else (len(prompt.ids), prompt.most)
        if key not in self._made:
            made = processors_of(self._model, self._how.config, prompt)
            behind = next((n for n in range(len(made), 0, -1) if not isinstance(made[n - 1], OF_LOGITS)), 0)
            if len(self._made) > 1000:
                self._made.clear()
            self._made[key] = made[:behind], made[behind:]
        return self._made[key]


def processors_of(model: Any, config: Any, prompt: Prompt) -> list[Any]:
    """Return what transformers' `generate` would apply to the logits of this row alone, in its order."""
    own = for_prompts(config, len(prompt.ids), prompt.most)
    own.max_length = len(prompt.ids) + prompt.most  # for a token that is forced at the end
    for name in ("decoder_start_token_id", "bos_token_id"):  # as `generate` does
        if getattr(own, name) is None:
            setattr(own, name, getattr(model.generation_config, name))
    model._prepare_special_tokens(own, device=model.device)
    ids = torch.tensor([prompt.ids], device=model.device)
    return list(model._get_logits_processor(own, len(prompt.ids), ids, device=model.device))


def for_prompts(config: Any, length: int, most: int) -> Any:
    """Return the settings for prompts of `length` tokens: shortest and longest answer as numbers of new tokens."""
    own = copy(config)
    own.min_new_tokens = max(config.min_new_tokens or 0, (config.min_length or 0) - length) or None
    own.min_length, own.max_new_tokens, own.max_length = None, most, None
    return own


def greedy(config: Any) -> Any:
    """Return the settings without sampling."""
    own = copy(config)
    own.do_sample = False
    for name, value in NEUTRAL.items():
        setattr(own, name, value)
    return own


def draws_of(prompt: Prompt) -> np.random.Generator:
    """Return the generator of a row's uniform numbers."""
    return np.random.Generator(np.random.PCG64(prompt.seed))


def drawn(scores: torch.Tensor, draws: Sequence[np.random.Generator | None]) -> torch.Tensor:
    """Draw a token of every row of `scores`, (rows, vocabulary); shape (rows,)."""
    cumulated = scores.softmax(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    whole = cumulated[:, -1:]
    uniform = torch.tensor([[one.random()] for one in draws if one], dtype=torch.float64, device=scores.device)
    below = torch.minimum(uniform * whole, torch.nextafter(whole, torch.zeros_like(whole)))
    return torch.searchsorted(cumulated, below, right=True)[:, 0].clamp(max=scores.shape[1] - 1)


class RowDraws(LogitsProcessor):
    """Makes a greedy `generate` write what sampling with the rows' own seeds writes: only the drawn token remains."""

    def __init__(self, model: Any, config: Any, prompts: Sequence[Prompt]):
        self._samplers = [one for one in processors_of(model, config, prompts[0]) if isinstance(one, SAMPLERS)]
        self._draws = [draws_of(prompt) for prompt in prompts]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return 0 for the drawn token of each row, minus infinity for others."""
        for sampler in self._samplers:
            scores = sampler(input_ids, scores)
        chosen = drawn(scores, self._draws)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)


def _processed(row: Row, scores: torch.Tensor) -> torch.Tensor:
    if not row.processors:  # such as a row whose prompt already has min_length tokens
        return scores
    history = row.history[None, : len(row.prompt.ids) + len(row.tokens)]
    for processor in row.processors:
        scores = processor(history, scores)
    return scores


def _not_numbers() -> NumericError:
    return NumericError(
        Problem("GEN-E0601", "model", "logits that are not numbers", "finite logits",
                "check the weights, or set inference_precision=full", why="no token can be chosen from them")
    )  # fmt: skip
