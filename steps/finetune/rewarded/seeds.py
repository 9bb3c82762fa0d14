"""Seeds of completions: each follows from the training's seed and its place, and from nothing else.

So a resumed training, and one in another number of processes, writes the same completions.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b


def seeds_of(seed: int, generation: int | str, places: Iterable[int]) -> list[int]:
    """Return a seed below 2^63 for each place in a generation.

    `generation` counts the times that completions were written in this training; evaluations, which are to be
    comparable, have a name in its place.
    """
    return [seed_of(seed, generation, place) for place in places]


def seed_of(*parts: int | str) -> int:
    """Return a number below 2^63 that follows from numbers and names."""
    digest = blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
