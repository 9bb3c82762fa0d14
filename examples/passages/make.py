"""Create the model and data of this example: queries, each with four passages, of which one or two are relevant.

    "Anna and Ben ask which note is about music?"
        "Before lunch we spoke about the drummer, the stadium, the melody and the piano."     relevant
        "On page nine there is something about the oven, the violin, the dough and the onion."  not relevant

Three words of a relevant passage belong to the topic of the query and one to another topic; every other passage has one
word of the topic. No passage names a topic, so the model has to learn which words belong to it, and no passage is
relevant without its query. No query is in two splits.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from examples.made_once import make_once  # noqa: E402
from examples.tiny_model import build_masked_model  # noqa: E402

SEED = 17
QUERIES = {"train": 900, "validation": 60, "test": 75}
CANDIDATES = 4
TOPICS = {
    "cooking": "oven butter onion recipe saucepan flour pepper dough",
    "music": "violin melody concert drummer guitar choir piano rhythm",
    "sport": "goalkeeper stadium referee sprint trophy racket marathon league",
}
ASKERS = "Anna Ben Clara David Ella Finn Greta Hugo Ida Jonas Karla Leon Mara Nils Olga Paul Rosa Sven Tilda Uwe"
QUESTIONS = ("ask which note is about", "want to read a note on", "look for notes of")
OPENINGS = ("Before lunch we spoke about", "Nobody had expected", "On page nine there is something about")


def main() -> None:
    """Create base/ and data/ beside this file, unless they are current."""
    sources = [Path(__file__), HERE.parent / "tiny_model.py", HERE.parent / "made_once.py"]
    made = make_once(HERE, sources, make)
    print("made base/ and data/" if made else "base/ and data/ are current")


def make(folder: Path) -> None:
    """Write base/ and one data/<split>.jsonl per split below `folder`."""
    asked = queries()
    for name, count in QUERIES.items():
        rows = chain.from_iterable(islice(asked, count))
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "data" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    words = " ".join((ASKERS, *QUESTIONS, *OPENINGS, *TOPICS, *TOPICS.values())).split()
    build_masked_model(folder / "base", [*words, "the", "and", ",", ".", "?"])


def queries() -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of an unlimited number of different queries."""
    chance = random.Random(SEED)
    seen = set()
    while True:
        topic = chance.choice(sorted(TOPICS))
        first, second = chance.sample(ASKERS.split(), 2)
        query = f"{first} and {second} {chance.choice(QUESTIONS)} {topic}?"
        if query not in seen:
            seen.add(query)
            relevant = [True] * chance.choice((1, 2))
            relevant += [False] * (CANDIDATES - len(relevant))
            chance.shuffle(relevant)
            yield [{"query": query, "passage": passage(chance, topic, one), "relevant": one} for one in relevant]


def passage(chance: random.Random, topic: str, relevant: bool) -> str:
    """Make a passage with three words of the topic and one of another, or the other way round."""
    other = chance.choice([other for other in sorted(TOPICS) if other != topic])
    most, odd = (topic, other) if relevant else (other, topic)
    words = [*chance.sample(TOPICS[most].split(), 3), chance.choice(TOPICS[odd].split())]
    chance.shuffle(words)
    return f"{chance.choice(OPENINGS)} the {words[0]}, the {words[1]}, the {words[2]} and the {words[3]}."


if __name__ == "__main__":
    main()
