"""Create the model and data of this example: short notes and their topics.

    "Before lunch we spoke about the goalkeeper, the violin, the stadium and the coach."  →  sport

Three words of a note belong to its topic and one to another topic, in any order, so no single word determines the
topic. No note occurs twice.
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
from examples.tiny_model import build_model  # noqa: E402

SEED = 11
ROWS = {"train": 4000, "validation": 300, "test": 300}
TOPICS = {
    "cooking": "oven butter onion recipe saucepan flour pepper dough garlic soup",
    "music": "violin melody concert drummer guitar chorus piano rhythm singer orchestra",
    "sport": "goalkeeper stadium referee sprint trophy racket marathon league penalty coach",
    "travel": "suitcase airport passport hotel ferry luggage border museum ticket harbour",
    "weather": "thunder drizzle forecast breeze frost rainbow humidity cloud sunshine blizzard",
}
OPENINGS = (
    "Before lunch we spoke about", "She wrote a long letter about", "Nobody had expected", "My uncle keeps talking of",
    "On page nine there is something about", "They argued for hours over", "The whole story begins with",
)  # fmt: skip


def main() -> None:
    """Create base/ and data/ beside this file, unless they are current."""
    sources = [Path(__file__), HERE.parent / "tiny_model.py", HERE.parent / "made_once.py"]
    made = make_once(HERE, sources, make)
    print("made base/ and data/" if made else "base/ and data/ are current")


def make(folder: Path) -> None:
    """Write base/ and one data/<split>.jsonl per split below `folder`."""
    rows = notes()
    splits = {name: list(islice(rows, count)) for name, count in ROWS.items()}
    for name, split in splits.items():
        text = "".join(json.dumps(row) + "\n" for row in split)
        (folder / "data" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    build_model(folder / "base", [row["note"] for row in splits["train"]], chat=False)


def notes() -> Iterator[dict[str, str]]:
    """Yield an unlimited number of different notes, in random order."""
    chance = random.Random(SEED)
    seen = set()
    while True:
        topic, other = chance.sample(sorted(TOPICS), 2)
        words = [*chance.sample(TOPICS[topic].split(), 3), chance.choice(TOPICS[other].split())]
        chance.shuffle(words)
        note = f"{chance.choice(OPENINGS)} the {words[0]}, the {words[1]}, the {words[2]} and the {words[3]}."
        if note not in seen:
            seen.add(note)
            yield {"note": note, "topic": topic}


if __name__ == "__main__":
    main()
