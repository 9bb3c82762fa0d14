"""Create the model and data of this example: numbers in words, followed by their digits.

    "nine thousand four hundred and two = "  →  "9,402"

Every number occurs once, so no test number is in the training rows.
"""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from examples.made_once import make_once  # noqa: E402
from examples.tiny_model import build_model  # noqa: E402

SEED = 7
TRAIN_ROWS = 6000
TEST_ROWS = 300
LARGEST = 99_999
SEPARATOR = " = "  # text_separator of config.yaml
ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = ["", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def main() -> None:
    """Create base/ and data/ beside this file, unless they are current."""
    sources = [Path(__file__), HERE.parent / "tiny_model.py", HERE.parent / "made_once.py"]
    made = make_once(HERE, sources, make)
    print("made base/ and data/" if made else "base/ and data/ are current")


def make(folder: Path) -> None:
    """Write base/, data/train.csv and data/test.csv below `folder`."""
    numbers = random.Random(SEED).sample(range(LARGEST + 1), TRAIN_ROWS + TEST_ROWS)
    write_rows(folder / "data" / "train.csv", numbers[:TRAIN_ROWS])
    write_rows(folder / "data" / "test.csv", numbers[TRAIN_ROWS:])
    texts = [f"{in_words(number)}{SEPARATOR}{number:,}" for number in numbers[:TRAIN_ROWS]]
    build_model(folder / "base", texts, chat=False)


def in_words(number: int) -> str:
    """Return a number below a million in British English words."""
    if number < 20:
        return ONES[number]
    if number < 100:
        ten, one = divmod(number, 10)
        return f"{TENS[ten]}-{ONES[one]}" if one else TENS[ten]
    if number < 1000:
        hundred, rest = divmod(number, 100)
        return f"{ONES[hundred]} hundred" + (f" and {in_words(rest)}" if rest else "")
    thousand, rest = divmod(number, 1000)
    joined = "" if not rest else f" and {in_words(rest)}" if rest < 100 else f" {in_words(rest)}"
    return f"{in_words(thousand)} thousand{joined}"


def write_rows(file: Path, numbers: list[int]) -> None:
    """Write the columns `words` and `digits`."""
    with open(file, "w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["words", "digits"])
        rows.writerows([in_words(number), f"{number:,}"] for number in numbers)


if __name__ == "__main__":
    main()
