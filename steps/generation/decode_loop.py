"""Decoding of causal models row by row: a row that has ended leaves at once, and the next one takes its place.

Prompts are read longest first, several together under a budget of tokens, a batch ahead of the rows that are running.
Equal prompts are read once. Without sampling, equal prompts are also answered once.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import DynamicCache, GenerationMixin

from steps.generation.choosing import Chooser, Row
from steps.generation.memory import freed, halved
from steps.generation.row_cache import RowCache, holds
from steps.generation.tokens import Answer, How, Prompt

log = logging.getLogger("finetune")

TOKENS_READ = 8192  # of prompts that are read together
POSITIONS_READ = 1024  # the same for models that compute logits of all positions
# Parts of `generate` that this loop repeats; a model with its own is decoded by `generate`.
REPEATED = (
    "prepare_inputs_for_generation", "_prepare_position_ids_for_generation", "_update_model_kwargs_for_generation",
    "_prepare_cache_for_generation", "_prepare_model_inputs", "_get_logits_processor", "_sample", "generate",
)  # fmt: skip


def can_decode(model: Any, how: How) -> bool:
    """Return whether this loop writes what the model's `generate` would write."""
    config = how.config
    special = (config.guidance_scale, config.watermarking_config, config.cache_implementation, config.cache_config,
               config.prefill_chunk_size)  # fmt: skip
    if config.num_beams != 1 or not config.use_cache or any(value is not None for value in special):
        return False
    if not issubclass(type(model), GenerationMixin) or model.config.is_encoder_decoder:
        return False
    own = [name for name in REPEATED if getattr(type(model), name) is not getattr(GenerationMixin, name)]
    if own or "generate" in vars(model) or "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    return bool(model._supports_default_dynamic_cache()) and holds(model.config)


class DecodeLoop:
    """The rows of one model: those that wait, those that were read, and those that run."""

    def __init__(self, model: Any, how: How):
        self._model, self._how = model, how
        self._chooser = Chooser(model, how)
        keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._options = {"logits_to_keep": 1} if keeps else {}
        self._budget = TOKENS_READ if keeps else POSITIONS_READ
        self._prompts: Sequence[Prompt] = ()
        self._queue: deque[list[list[int]]] = deque()
        self._read: deque[tuple[Row, Any, int]] = deque()
        self._rows: list[Row] = []
        self._ended: list[Row] = []

    def run(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Answer]]:
        """Yield (place in `prompts`, answer) as rows end. Raises OutOfResources if a row alone does not fit."""
        self._prompts = prompts
        left = set(range(len(prompts)))
        self._restart(left)
        while left:
            full = False
            try:
                with self._how.computing():
                    self._advance()
            except torch.OutOfMemoryError:
                full = True
            for row in self._ended:
                for number in row.numbers:
                    left.discard(number)
                    yield number, row.answer(self._how.logprobs)
            self._ended.clear()
            if full:  # outside of `except`, whose traceback holds the tensors
                rows = max(len(self._rows), min(len(left), self._limit(0)))
                halved(self._how, rows, max(len(prompts[number].ids) for number in left))
                self._restart(left)
                freed()

    def _restart(self, left: set[int]) -> None:
        """Begin with all rows that have no answer yet; their draws are the same again."""
        self._read.clear()
        self._rows.clear()
        self._cache: RowCache | None = None
        together: dict[tuple[int, ...], list[list[int]]] = {}
        for number in sorted(left):
            rows = together.setdefault(self._prompts[number].ids, [])
            if rows and not self._how.config.do_sample:
                rows[0].append(number)
            else:
                rows.append([number])
        self._queue = deque(sorted(together.values(), key=lambda rows: -self._length(rows)))

    def _length(self, rows: list[list[int]]) -> int:
        return len(self._prompts[rows[0][0]].ids)

    def _advance(self) -> None:
        while self._queue or self._read:
            nearest = self._read[0][0].longest if self._read else self._longest_of(self._queue[0])
            if len(self._rows) >= self._limit(nearest):
                break
            if self._read:
                self._join(*self._read.popleft())
            else:
                self._read_prompts()
        if self._rows:
            self._step()

    def _longest_of(self, rows: list[list[int]]) -> int:
        first = self._prompts[rows[0][0]]
        return len(first.ids) + first.most

    def _limit(self, longest: int) -> int:
        return self._how.limits.rows_of(max([longest, *(row.longest for row in self._rows)]) or 1)

    def _read_prompts(self) -> None:
        """Read the next prompts in one batch, and choose the first token of each of their rows."""
        width, most = self._length(self._queue[0]), self._limit(self._longest_of(self._queue[0]))
        group: list[list[list[int]]] = []
        count = 0
        while self._queue and count < most and (not group or (len(group) + 1) * width <= self._budget):
            rows = self._queue.popleft()
            if count + len(rows) > most:  # the rest is read again later
                self._queue.appendleft(rows[most - count :])
                rows = rows[: most - count]
            group.append(rows)
            count += len(rows)
        cache = DynamicCache(config=self._model.config)
        logits = self._forward([self._prompts[rows[0][0]].ids for rows in group], width, cache)
        lines = [line for line, rows in enumerate(group) for _ in rows]
        begun = [self._chooser.begin(row, self._prompts[row[0]]) for rows in group for row in rows]
        self._chooser.choose(logits[lines], begun)
        self._ended += [row for row in begun if row.ended]
        self._read.extend((row, cache, line) for row, line in zip(begun, lines, strict=True) if not row.ended)

    def _forward(self, ids: list[tuple[int, ...]], width: int, cache: Any) -> torch.Tensor:
        """Return the logits behind each prompt, (prompts, vocabulary), after reading them with left padding."""
        rows = torch.full((len(ids), width), self._how.padding)
        mask = torch.zeros(rows.shape, dtype=torch.long)
        for line, one in enumerate(ids):
            rows[line, width - len(one) :] = torch.tensor(one)
            mask[line, width - len(one) :] = 1
        return self._logits(rows, mask, (mask.cumsum(-1) - 1).clamp(min=0), cache)

    def _logits(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        place = self._model.device
        said = self._model(
            input_ids=ids.to(place),
            attention_mask=mask.to(place),
            position_ids=positions.to(place),
            past_key_values=cache,
            use_cache=True,
            **self._options,
        )
        logits: torch.Tensor = said.logits[:, -1]
        return logits.to(place)

    def _join(self, row: Row, cache: Any, line: int) -> None:
        if self._cache is None:
            self._cache = RowCache(self._model.config, self._how.limits.rows or 2**31)
        self._cache.add(cache, line, len(row.prompt.ids))
        self._rows.append(row)

    def _step(self) -> None:
        """Append a token to every running row; rows that have ended leave."""
        assert self._cache is not None
        cached = torch.tensor([[row.cached] for row in self._rows])
        seen = int(cached.max())
        mask = (torch.arange(seen + 1) >= seen - cached).long()
        ids = torch.tensor([[row.tokens[-1]] for row in self._rows])
        logits = self._logits(ids, mask, cached, self._cache)
        self._chooser.choose(logits, self._rows)
        for line in range(len(self._rows) - 1, -1, -1):
            if self._rows[line].ended:
                self._ended.append(self._rows[line])
                last = self._rows.pop()
                if line < len(self._rows):
                    self._rows[line] = last
                self._cache.remove(line)
        if self._rows:
            self._cache.forget(max(row.cached for row in self._rows))
