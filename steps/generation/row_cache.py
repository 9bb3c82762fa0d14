"""Keys and values of the running rows: rows leave and join without a copy of the others.

All rows end at the same column, as in a batch with left padding, so that each step appends one column and masks are
those of transformers. What is left of a row's first token is masked. A row that leaves is replaced by the last one, and
a new one is written behind them; the buffers have spare columns, so that a step copies nothing (transformers'
DynamicLayer copies the whole cache in each step).
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

SPARE = 64  # least number of free columns of a new buffer


class RowLayer(DynamicLayer):
    """One layer's keys and values, (rows, heads, columns, head size)."""

    def __init__(self, window: int | None):
        super().__init__()
        self.window = window
        self.is_sliding = window is not None
        self.rows = 0
        self.seen = 0
        """Columns from the first token of the longest row to the newest token of all."""
        self._end = 0  # of the newest column in the buffers

    def kept(self, seen: int) -> int:
        """Return how many of `seen` columns are needed for the next token."""
        return seen if self.window is None else min(seen, self.window - 1)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        """Append the columns of a step; return all keys and values that it may attend to."""
        new, before = key_states.shape[-2], self.kept(self.seen)
        if self._end + new > self._buffers[0].shape[-2]:
            self._move(len(self._buffers[0]), before, before)  # no more rows than now
        first, last = self._end - before, self._end + new
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[: self.rows, :, self._end : last] = states
        self._end, self.seen = last, self.seen + new
        self.keys, self.values = (buffer[: self.rows, :, first:last] for buffer in self._buffers)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Return the number of columns seen."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many columns the next step sees, and the number of the first one."""
        return self.kept(self.seen) + query_length, self.seen - self.kept(self.seen)

    def add(self, keys: torch.Tensor, values: torch.Tensor, length: int, most_rows: int) -> None:
        """Append a row of `length` tokens, whose kept columns are the last ones of `keys` (heads, columns, size)."""
        if not self.is_initialized:
            # Under autocast, values may have fewer bits than keys.
            self._buffers = tuple(one.new_empty((0, one.shape[0], 0, one.shape[-1])) for one in (keys, values))
            self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        if not self.rows:
            self.seen = self._end = 0
        seen, kept = max(self.seen, length), self.kept(length)
        room, before = self.kept(seen), self.kept(self.seen)
        if self.rows == len(self._buffers[0]) or self._end < room:
            self._move(max(self.rows + 1, min(most_rows, max(2 * self.rows, 4))), room, before)
        for buffer, states in zip(self._buffers, (keys, values), strict=True):
            # Masked columns have to be finite, as their weight is 0.
            buffer[: self.rows, :, self._end - room : self._end - before] = 0
            buffer[self.rows, :, self._end - room : self._end - kept] = 0
            buffer[self.rows, :, self._end - kept : self._end] = states[:, states.shape[1] - kept :]
        self.rows, self.seen = self.rows + 1, seen

    def remove(self, row: int) -> None:
        """Remove a row; the last one takes its place."""
        self.rows -= 1
        if row != self.rows:
            first = self._end - self.kept(self.seen)
            for buffer in self._buffers:
                buffer[row, :, first : self._end] = buffer[self.rows, :, first : self._end]

    def forget(self, seen: int) -> None:
        """Drop all columns but the last `seen` ones, those of the longest row that is left."""
        self.seen = seen

    def _move(self, rows: int, room: int, before: int) -> None:
        """Continue in new buffers for `rows`, the newest column at `room`; the last `before` columns are kept."""
        columns = room + max(SPARE, room // 4)
        moved = []
        for buffer in self._buffers:
            larger = buffer.new_zeros((rows, buffer.shape[1], columns, buffer.shape[3]))
            larger[: self.rows, :, room - before : room] = buffer[: self.rows, :, self._end - before : self._end]
            moved.append(larger)
        self._buffers, self._end = tuple(moved), room


class RowCache(Cache):
    """The cache of a model for the running rows, which `model(…, past_key_values=…)` reads and extends."""

    def __init__(self, config: Any, most_rows: int):
        layers = DynamicCache(config=config).layers
        self._of_rows = [RowLayer(getattr(layer, "sliding_window", None)) for layer in layers]
        super().__init__(layers=list(self._of_rows))
        self.most_rows = most_rows

    def add(self, source: Any, line: int, length: int) -> None:
        """Append a row that was read in a batch: row `line` of its cache, which has `length` tokens."""
        for layer, read in zip(self._of_rows, source.layers, strict=True):
            layer.add(read.keys[line], read.values[line], length, self.most_rows)

    def remove(self, row: int) -> None:
        """Remove a row; the last one takes its place."""
        for layer in self._of_rows:
            layer.remove(row)

    def forget(self, seen: int) -> None:
        """Drop all columns but the last `seen` ones."""
        for layer in self._of_rows:
            layer.forget(seen)


def holds(config: Any) -> bool:
    """Return whether a RowCache can hold what a model of this configuration keeps: keys and values, all or a window."""
    text = config.get_text_config(decoder=True)
    if getattr(text, "num_kv_shared_layers", None) or "chunked_attention" in (getattr(text, "layer_types", None) or ()):
        return False
    if getattr(text, "attention_chunk_size", None):
        return False
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in DynamicCache(config=text).layers)
