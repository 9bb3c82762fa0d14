"""Create the model and data of this example: sentences in which the same name may be a person, a place or a firm.

    "Jordan Lincoln sold Austin Motors in New Chelsea ."  →  B-PER I-PER O B-ORG I-ORG O B-LOC I-LOC O

The type of a name depends only on the words around it: predicting each word's most frequent tag gets few entities
right. No sentence occurs twice.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from examples.made_once import make_once  # noqa: E402
from examples.tiny_model import build_masked_model  # noqa: E402

SEED = 5
ROWS = {"train": 4000, "validation": 300, "test": 300}
NAMES = [
    "Jordan", "Lincoln", "Austin", "Chelsea", "Madison", "Florence", "Sydney", "Victoria", "Paris", "Georgia", "Carson",
    "Dallas", "Kent", "Logan",
]  # fmt: skip
FIRMS, PLACES = ("Motors", "Bank", "Foods"), ("Bay", "Hills", "City")
SENTENCES = (
    "PER moved from LOC to LOC .", "PER works for ORG in LOC .", "the board of ORG met PER yesterday .",
    "in LOC nobody knows PER .", "ORG was founded by PER and PER .", "PER sold ORG in LOC .",
    "everyone at ORG voted for PER .", "the road to LOC was closed , said PER .",
)  # fmt: skip


def main() -> None:
    """Create base/ and data/ beside this file, unless they are current."""
    sources = [Path(__file__), HERE.parent / "tiny_model.py", HERE.parent / "made_once.py"]
    made = make_once(HERE, sources, make)
    print("made base/ and data/" if made else "base/ and data/ are current")


def make(folder: Path) -> None:
    """Write base/ and one data/<split>.jsonl per split below `folder`."""
    rows = sentences()
    for name, count in ROWS.items():
        text = "".join(json.dumps(row) + "\n" for row in islice(rows, count))
        (folder / "data" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    known = {word for sentence in SENTENCES for word in sentence.split()} - {"PER", "LOC", "ORG"}
    build_masked_model(folder / "base", sorted({*known, *NAMES, *FIRMS, *PLACES, "New"}))


def sentences() -> Iterator[dict[str, list[str]]]:
    """Yield an unlimited number of different sentences, in random order."""
    chance = random.Random(SEED)
    seen = set()
    while True:
        words, tags = [], []
        for word in chance.choice(SENTENCES).split():
            entity = entity_of(word, chance) if word in ("PER", "LOC", "ORG") else []
            words += entity or [word]
            tags += [f"{'I' if place else 'B'}-{word}" for place in range(len(entity))] or ["O"]
        if (text := " ".join(words)) not in seen:
            seen.add(text)
            yield {"tokens": words, "tags": tags}


def entity_of(kind: str, chance: random.Random) -> list[str]:
    """Draw one or two words for a person, a place or a firm; most of them may be any of the three."""
    first, second = chance.sample(NAMES, 2)
    long = chance.random() < 0.5
    if kind == "PER":
        return [first, second] if long else [first]
    if kind == "ORG":
        return [first, chance.choice(FIRMS)] if long else [first]
    return (["New", first] if chance.random() < 0.5 else [first, chance.choice(PLACES)]) if long else [first]


if __name__ == "__main__":
    main()
