"""Create the model and data of this example: English phrases and their translations into an invented language.

    "the red fox sees three old boats"  →  "foku rema vesi tiro bota-n ola-n"

Each word has one translation, adjectives follow their noun, "the" and "a" are dropped, and plurals end in -n. No test
phrase is in the training rows. The language code is qaa, which ISO 639-2 reserves for private use.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from examples.made_once import make_once  # noqa: E402
from examples.tiny_model import build_model, build_translator  # noqa: E402

SEED = 7
ROWS = {"train": 6000, "validation": 300, "test": 300}
NOUNS = ["fox", "boat", "tree", "house", "bird", "king", "road", "apple", "letter", "river", "stone", "child"]
PLURALS = {"fox": "foxes", "child": "children"}
ADJECTIVES = ["red", "old", "small", "green", "quiet", "heavy", "bright", "strange"]
VERBS = ["sees", "finds", "follows", "draws", "remembers", "hides", "wants", "leaves"]
NUMBERS = ["two", "three", "four", "five"]
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]


def main() -> None:
    """Create base/, base_encoder/ and data/ beside this file, unless they are current."""
    sources = [Path(__file__), HERE.parent / "tiny_model.py", HERE.parent / "made_once.py"]
    made = make_once(HERE, sources, make, more=("base_encoder",))
    print("made base/, base_encoder/ and data/" if made else "base/, base_encoder/ and data/ are current")


def make(folder: Path) -> None:
    """Write base/, base_encoder/ and one data/<split>.jsonl per split below `folder`."""
    chance = random.Random(SEED)
    lexicon = dictionary(chance)
    pairs = dict(phrase(chance, lexicon) for _ in range(2 * sum(ROWS.values())))
    rows = [{"translation": {"en": english, "qaa": other}} for english, other in pairs.items()]
    first = 0
    for name, count in ROWS.items():
        lines = [json.dumps(row) + "\n" for row in rows[first : first + count]]
        (folder / "data" / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        first += count
    texts = [f"translate English to qaa: {row['en']}\n{row['qaa']}" for row in
             (row["translation"] for row in rows[: ROWS["train"]])]  # fmt: skip
    build_model(folder / "base", texts, chat=False)
    words = sorted({word for english, other in pairs.items() for word in f"{english} {other}".split()})
    build_translator(folder / "base_encoder", words)


def dictionary(chance: random.Random) -> dict[str, str]:
    """Return an invented word of two syllables for every English word."""
    words = [*NOUNS, *ADJECTIVES, *VERBS, *NUMBERS]
    invented = chance.sample([a + b for a in SYLLABLES for b in SYLLABLES if a != b], len(words))
    return dict(zip(words, invented, strict=True))


def phrase(chance: random.Random, lexicon: dict[str, str]) -> tuple[str, str]:
    """Return one phrase (subject, verb, object) and its translation."""
    subject, object_ = (thing(chance, lexicon, many) for many in (False, chance.random() < 0.6))
    verb = chance.choice(VERBS)
    return f"{subject[0]} {verb} {object_[0]}", f"{subject[1]} {lexicon[verb]} {object_[1]}"


def thing(chance: random.Random, lexicon: dict[str, str], many: bool) -> tuple[str, str]:
    """Return a noun phrase such as "three old boats" and its translation."""
    noun = chance.choice(NOUNS)
    adjectives = chance.sample(ADJECTIVES, chance.choice([0, 1, 1, 2]))
    first = chance.choice(NUMBERS) if many else chance.choice(["the", "a"])
    english = [first, *adjectives, PLURALS.get(noun, noun + "s") if many else noun]
    ending = "-n" if many else ""
    other = [lexicon[word] + ending for word in (noun, *adjectives)]
    return " ".join(english), " ".join([lexicon[first], *other] if many else other)


if __name__ == "__main__":
    main()
