"""Create the model and data of this example: texts from a generator with known entropy.

    "letter boat tree house road apple cloud hill field ."

Each word is followed by one of four words with fixed probabilities, and a full stop ends the text. No model can predict
such texts better than the generator, so the generator's perplexity is the target; make.py prints it.
"""

from __future__ import annotations

import json
import math
import random
import sys
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from examples.made_once import make_once  # noqa: E402
from examples.tiny_model import LONGEST, build_masked_model, build_model  # noqa: E402

SEED = 7
ROWS = {"train": 6000, "validation": 300, "test": 600}
WORDS = [
    "fox", "boat", "tree", "house", "bird", "king", "road", "apple", "letter", "river", "stone", "child", "cloud",
    "night", "wind", "grass", "fire", "sea", "hill", "door", "bread", "salt", "moon", "snow", "horse", "field",
]  # fmt: skip
STOP = "."
PROBABILITIES = (0.5, 0.25, 0.15, 0.1)

Chain = dict[str, tuple[str, ...]]


def main() -> None:
    """Create base/, base_masked/ and data/ beside this file, unless they are current."""
    sources = [Path(__file__), HERE.parent / "tiny_model.py", HERE.parent / "made_once.py"]
    made = make_once(HERE, sources, make, more=("base_masked",))
    print("made base/, base_masked/ and data/" if made else "base/, base_masked/ and data/ are current")
    print(f"perplexity of the generator on the test texts: {perplexity():.3f}")


def make(folder: Path) -> None:
    """Write base/, base_masked/ and one data/<split>.jsonl per split below `folder`."""
    chance = random.Random(SEED)
    chain = followers()
    written: dict[str, None] = {}
    while len(written) < sum(ROWS.values()):
        made = text(chance, chain)
        if len(made.split()) < LONGEST:  # with its end token it fits into the model
            written[made] = None
    rows = list(written)
    first = 0
    for name, count in ROWS.items():
        lines = [json.dumps({"text": row}) + "\n" for row in rows[first : first + count]]
        (folder / "data" / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        first += count
    build_model(folder / "base", rows[: ROWS["train"]], chat=False)
    build_masked_model(folder / "base_masked", [*WORDS, STOP])


def followers() -> Chain:
    """Return the four words that may follow each word, the likeliest first."""
    chance = random.Random(SEED)
    return {word: tuple(chance.sample([*WORDS, STOP], len(PROBABILITIES))) for word in WORDS}


def text(chance: random.Random, chain: Chain) -> str:
    """Generate a text from a random word to the full stop."""
    words = [chance.choice(WORDS)]
    while words[-1] != STOP:
        words += chance.choices(chain[words[-1]], PROBABILITIES)
    return " ".join(words)


def perplexity() -> float:
    """Return the generator's perplexity on the test texts, over all words but the first and the certain end token."""
    chain = followers()
    surprise, predicted = 0.0, 0
    for line in (HERE / "data" / "test.jsonl").read_text(encoding="utf-8").splitlines():
        words = json.loads(line)["text"].split()
        surprise -= sum(math.log(PROBABILITIES[chain[word].index(after)]) for word, after in pairwise(words))
        predicted += len(words)
    return math.exp(surprise / predicted)


if __name__ == "__main__":
    main()
