"""Create the model and data of this example: minutes of a meeting, and its decision.

    "Ada spoke about the bridge. After a while, Tom agreed to sell the boats in May. Lunch was late. …"
    →  "Tom will sell the boats."

One sentence of each document is a decision. Its position is random, so the first sentence alone is a poor summary. No
test document is in the training rows.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from examples.made_once import make_once  # noqa: E402
from examples.tiny_model import build_model  # noqa: E402

SEED = 7
ROWS = {"train": 6000, "validation": 300, "test": 300}
NAMES = ["Ada", "Tom", "Mira", "Jonas", "Lena", "Oscar", "Ruth", "Felix", "Nora", "Hugo"]
VERBS = ["sell", "paint", "repair", "move", "count", "clean", "insure", "measure"]
ADJECTIVES = ["old", "red", "new", "empty", "broken", "large"]
THINGS = ["boats", "chairs", "windows", "bridges", "lamps", "fences", "engines", "maps", "doors", "barrels"]
MONTHS = ["March", "May", "June", "October"]
ASIDES = ["Lunch was late.", "Nobody took notes.", "It rained all day.", "The coffee was cold.", "Two guests left."]
TALKS = [
    "{name} spoke about the {adjective} {thing}.",
    "{name} did not want to {verb} the {thing}.",
    "In {month}, {name} had seen the {adjective} {thing}.",
]
DECISION = "After a while, {name} agreed to {verb} the {adjective} {thing} in {month}."
SUMMARY = "{name} will {verb} the {adjective} {thing}."


def main() -> None:
    """Create base/ and data/ beside this file, unless they are current."""
    sources = [Path(__file__), HERE.parent / "tiny_model.py", HERE.parent / "made_once.py"]
    made = make_once(HERE, sources, make)
    print("made base/ and data/" if made else "base/ and data/ are current")


def make(folder: Path) -> None:
    """Write base/ and one data/<split>.jsonl per split below `folder`."""
    chance = random.Random(SEED)
    written: dict[str, str] = {}
    while len(written) < sum(ROWS.values()):
        written.update([document(chance)])
    rows = [{"document": text, "summary": summary} for text, summary in written.items()]
    first = 0
    for name, count in ROWS.items():
        lines = [json.dumps(row) + "\n" for row in rows[first : first + count]]
        (folder / "data" / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        first += count
    texts = [f"summarize: {row['document']}\n{row['summary']}" for row in rows[: ROWS["train"]]]
    build_model(folder / "base", texts, chat=False)


def document(chance: random.Random) -> tuple[str, str]:
    """Return one document of three to five sentences and its summary."""
    decided = details(chance)
    sentences = [chance.choice(TALKS).format(**details(chance)) for _ in range(chance.choice([1, 2]))]
    sentences += chance.sample(ASIDES, chance.choice([1, 2]))
    sentences.append(DECISION.format(**decided))
    chance.shuffle(sentences)
    return " ".join(sentences), SUMMARY.format(**decided)


def details(chance: random.Random) -> dict[str, str]:
    """Draw a name, a verb, an adjective, a thing and a month."""
    choices = {"name": NAMES, "verb": VERBS, "adjective": ADJECTIVES, "thing": THINGS, "month": MONTHS}
    return {name: chance.choice(values) for name, values in choices.items()}


if __name__ == "__main__":
    main()
