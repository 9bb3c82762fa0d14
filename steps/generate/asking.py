"""From rows to requests: prompts as the model reads them, and a seed for each answer."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from steps.errors import Problem, UserError
from steps.generate.rows import InputRow
from steps.generation.conversations import Conversations
from steps.generation.requests import Request
from steps.params.generation import DecodingParams

SEED_BITS = 31  # what every engine and server takes as a seed
TOLD = 300  # characters of what a template said


class Asking:
    """Writes the requests for rows, `samples` for each. Conversations need the tokenizer of `model`.

    Without a model, the engine is given the conversation: a server renders it with its own template.
    """

    def __init__(self, decoding: DecodingParams, model: Path | None, data: Path):
        self.decoding = decoding
        self.samples = decoding.num_return_sequences
        self.together = not decoding.do_sample and self.samples > 1
        """Whether the answers to a row are made together, as the beams of one search."""
        self._folders = (model, data)
        self._talk: Conversations | None = None

    def prompt(self, row: InputRow) -> str:
        """Return the prompt as the model reads it; empty for a conversation without a model.

        Raises UserError if there is no template, or if it refuses the conversation.
        """
        if row.messages is None:
            return row.text or ""
        model, data = self._folders
        if model is None:
            return ""
        if self._talk is None:
            self._talk = Conversations(model, data)
        try:
            return self._talk.prompt(row.messages, row.tools)
        except Exception as error:  # a template may raise any exception
            said = " ".join(str(error).split())[:TOLD]
            raise UserError(
                Problem("GEN-E0223", f"row {row.number}", said or type(error).__name__,
                        "a conversation that the chat template can write", "correct the row, or set chat_template")
            ) from None  # fmt: skip

    def requests(self, row: InputRow, answered: Collection[int] = ()) -> Iterator[Request]:
        """Give the requests for the answers to a row that are not `answered` yet."""
        missing = [sample for sample in range(self.samples) if sample not in answered]
        if not missing:
            return
        prompt = self.prompt(row)
        for sample in range(self.samples) if self.together else missing:
            yield Request(
                row.number, prompt, row.messages is not None and bool(prompt), tuple(row.messages or ()),
                tuple(row.tools or ()), sample, seed_of(self.decoding.generation_seed, row.number, sample),
            )  # fmt: skip


def seed_of(seed: int, row: int, sample: int) -> int:
    """Return the seed of one answer's draws: the same whatever process, batch or order it is made in."""
    digest = hashlib.sha256(f"{seed}:{row}:{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> (32 - SEED_BITS)


def windows(requests: Iterable[Request], size: int) -> Iterator[list[Request]]:
    """Group requests into lists of about `size`; those for one row are in the same list."""
    window: list[Request] = []
    for request in requests:
        if len(window) >= size and window[-1].row != request.row:
            yield window
            window = []
        window.append(request)
    if window:
        yield window
