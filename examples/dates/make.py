"""Create the model and data of this example: chats that convert a written date to ISO 8601.

    "Normalise: the 3rd of May 1987"  →  "1987-05-03"

Every date occurs once, so no test date is in the training rows, in any style.
"""

from __future__ import annotations

import datetime
import json
import random
import sys
from itertools import islice
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from examples.made_once import make_once  # noqa: E402
from examples.tiny_model import build_model  # noqa: E402

SEED = 7
ROWS = {"train": 6000, "validation": 300, "test": 300}
FIRST = datetime.date(1900, 1, 1)
LAST = datetime.date(2099, 12, 31)
STYLES = (
    "the {day}. of {month} {year}",
    "the {ordinal} of {month} {year}",
    "{day} {month} {year}",
    "{month} {day}, {year}",
    "{month} {ordinal}, {year}",
    "{day} {short} {year}",
    "{weekday}, {day} {month} {year}",
    "{day}.{number}.{year}",
    "{year}, {short} {day}",
)


def main() -> None:
    """Create base/, base_plain/ and data/ beside this file, unless they are current."""
    sources = [Path(__file__), HERE.parent / "tiny_model.py", HERE.parent / "made_once.py"]
    made = make_once(HERE, sources, make, more=("base_plain",))
    print("made base/ and data/" if made else "base/ and data/ are current")


def make(folder: Path) -> None:
    """Write base/, base_plain/ (without chat tokens) and one data/<split>.jsonl per split below `folder`."""
    rows = iter(chats(sum(ROWS.values())))
    splits = {name: list(islice(rows, count)) for name, count in ROWS.items()}
    for name, split in splits.items():
        write_rows(folder / "data" / f"{name}.jsonl", split)
    texts = [message["content"] for row in splits["train"] for message in row["messages"]]
    texts = ["user\nassistant\nsystem\n", *texts]
    build_model(folder / "base", texts, chat=True)
    build_model(folder / "base_plain", texts, chat=None)


def chats(count: int) -> list[dict]:
    """Return conversations about `count` different dates, in random order."""
    chance = random.Random(SEED)
    days = chance.sample(range((LAST - FIRST).days + 1), count)
    return [chat(FIRST + datetime.timedelta(days=day), chance.choice(STYLES)) for day in days]


def chat(date: datetime.date, style: str) -> dict:
    """Return a conversation with one date in one style and its answer."""
    written = style.format(
        day=date.day,
        ordinal=ordinal(date.day),
        month=f"{date:%B}",
        short=f"{date:%b}",
        weekday=f"{date:%A}",
        number=date.month,
        year=date.year,
    )
    return {
        "messages": [
            {"role": "user", "content": f"Normalise: {written}"},
            {"role": "assistant", "content": date.isoformat()},
        ]
    }


def ordinal(day: int) -> str:
    """Return an ordinal: 1st, 2nd, 3rd, 4th, 11th, 21st …"""
    ending = "th" if 10 < day < 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


def write_rows(file: Path, rows: list[dict]) -> None:
    """Write one JSON object per line."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
