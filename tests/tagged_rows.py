"""Sentences with tagged words, and data artifacts made of them."""

from pathlib import Path

from conftest import write_jsonl

from steps.params.data import Preprocessing
from steps.params.settings import DataSettings, Resolved
from steps.prepare_data.step import prepare_data
from steps.sources.storage import digest_of

KINDS = {"apple": "FRUIT", "pear": "FRUIT", "iron": "METAL", "zinc": "METAL"}


def sentences(count: int) -> list[dict]:
    """Make sentences with entities of one and two words; some words are split by the tokenizer."""
    rows = []
    words = list(KINDS)
    for number in range(count):
        one, other = words[number % 4], words[number // 4 % 4]
        tokens, tags = ["the", one], ["O", f"B-{KINDS[one]}"]
        if number % 3 == 0:
            tokens, tags = [*tokens, one], [*tags, f"I-{KINDS[one]}"]
        rows.append(
            {"tokens": [*tokens, "and", other, str(1000 + number)], "tags": [*tags, "O", f"B-{KINDS[other]}", "O"]}
        )
    return rows


def prepared(base: Path, folder: Path, rows: list[dict] | None = None, length: int = 32, **how) -> Path:
    folder.mkdir(exist_ok=True)
    rows = rows or sentences(84)
    parts = {"train": rows[:60], "validation": rows[60:72], "test": rows[72:]}
    files = {name: write_jsonl(folder / f"{name}.jsonl", part) for name, part in parts.items()}
    sources = {name: Resolved(uri=str(file), digest=digest_of(name, str(file))) for name, file in files.items()}
    settings = DataSettings(
        task="token_classification", kind="token_classification", max_length=length,
        preprocessing=Preprocessing(**how), **sources,
    )  # fmt: skip
    prepare_data(settings, base, folder / "data", folder / "data.html")
    return folder / "data"
