"""What an engine is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Request:
    """One answer that is wanted."""

    row: int
    """Number of the row among all rows; not that of a batch."""
    prompt: str
    """The text that the model continues, as its chat template renders it."""
    rendered: bool = False
    """Whether `prompt` already has its special tokens, because a chat template rendered it."""
    messages: tuple[dict[str, Any], ...] = ()
    """The conversation that `prompt` was rendered from; empty for a plain text. For engines with their own template."""
    tools: tuple[dict[str, Any], ...] = ()
    """Tools that the conversation may call, for the same engines."""
    sample: int = 0
    """Number of this answer among those to the same prompt."""
    seed: int = 0
    """Seed of this answer's draws: it depends on row and sample only, not on the batch."""


@dataclass(frozen=True)
class Completion:
    """An answer."""

    text: str
    finish_reason: Literal["stop", "length"]
    """stop: an end token or a stop string; length: the longest allowed answer."""
    prompt_tokens: int
    completion_tokens: int
    """Generated tokens, with the end token."""
    token_ids: tuple[int, ...] = ()
    """Generated tokens, with the end token; empty if the engine does not tell them."""
    logprobs: tuple[float, ...] | None = None
    """Log-probability (nats) of each generated token in the model's own distribution; None if not asked for."""
    truncated: bool = False
    """Whether the prompt was truncated to fit."""


class Engine(Protocol):
    """A model that answers; a context manager, which frees the model at its end."""

    name: str
    """Such as accelerate."""
    versions: dict[str, str]
    """Package → version, for manifests and reports."""

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """Yield (index in `requests`, answer) as answers are finished, in any order, each index once.

        Engines batch and sort as suits them; callers hand over as many requests as they can hold (thousands).
        Raises OutOfResources without memory, Outage if a server does not answer, UserError for refused requests.
        """
        ...

    def __enter__(self) -> Engine: ...

    def __exit__(self, *_: object) -> None: ...
