"""Create the model and data of this example: questions with or without an answer in a text.

    "which town was it ?"     "so they said New Lima had to be tall goat like this soup after all ."  →  "New Lima"
    "which colour was it ?"   the same text                                                          →  no answer

Question and text are always longer than one window. No question occurs twice with the same text.
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

SEED = 3
ROWS = {"train": 6000, "validation": 300, "test": 300}
KINDS = {
    "town": ("Oslo", "Rome", "Lima", "Cairo", "Quito", "Paris", "Delhi", "Minsk"),
    "animal": ("cat", "dog", "horse", "goat", "parrot", "rabbit", "turtle", "mouse"),
    "food": ("soup", "bread", "salad", "rice", "cheese", "honey", "olives", "plums"),
    "colour": ("red", "blue", "green", "white", "black", "yellow", "brown", "pink"),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
}
BEFORE = {"town": "New", "animal": "tall"}  # some answers have two words
FILLERS = [
    "well",
    "then",
    "so",
    "they",
    "said",
    "that",
    "nobody",
    "knew",
    "why",
    "it",
    "had",
    "to",
    "be",
    "after",
    "all",
]
NAMED, WORDS = 3, 16  # number of kinds in a text, and of its other words


def main() -> None:
    """Create base/ and data/ beside this file, unless they are current."""
    sources = [Path(__file__), HERE.parent / "tiny_model.py", HERE.parent / "made_once.py"]
    made = make_once(HERE, sources, make)
    print("made base/ and data/" if made else "base/ and data/ are current")


def make(folder: Path) -> None:
    """Write base/ and one data/<split>.jsonl per split below `folder`."""
    rows = questions()
    for name, count in ROWS.items():
        text = "".join(json.dumps(row) + "\n" for row in islice(rows, count))
        (folder / "data" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    words = {word for values in KINDS.values() for word in values}
    build_masked_model(folder / "base", sorted({*words, *KINDS, *BEFORE.values(), *FILLERS, "which", "was", "?", "."}))


def questions() -> Iterator[dict]:
    """Yield an unlimited number of different questions, in random order."""
    chance = random.Random(SEED)
    seen = set()
    while True:
        pieces = chance.choices(FILLERS, k=WORDS)
        named = {}
        for kind in chance.sample(sorted(KINDS), NAMED):
            long = kind in BEFORE and chance.random() < 0.5
            named[kind] = " ".join([BEFORE.get(kind, "")] * long + [chance.choice(KINDS[kind])])
            pieces.insert(chance.randint(0, len(pieces)), named[kind])
        context, asked = " ".join([*pieces, "."]), chance.choice([*sorted(KINDS), *named])
        if (asked, context) not in seen:
            seen.add((asked, context))
            texts = [named[asked]] if asked in named else []
            answers = {"text": texts, "answer_start": [context.index(text) for text in texts]}
            yield {"question": f"which {asked} was it ?", "context": context, "answers": answers}


if __name__ == "__main__":
    main()
