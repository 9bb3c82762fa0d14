"""Texts for masked language models, and data artifacts made of them."""

from pathlib import Path

from conftest import write_jsonl

from steps.params.data import Preprocessing
from steps.params.settings import DataSettings, Resolved
from steps.prepare_data.step import prepare_data
from steps.sources.storage import digest_of

WORDS = ["apple", "pear", "plum", "iron", "zinc", "tin", "red", "blue", "green"]


def texts(count: int) -> list[dict]:
    return [{"text": f"the {WORDS[n % 9]} and a {WORDS[n // 9 % 9]} . {'the ' * (n % 7)}{n}"} for n in range(count)]


def prepared(
    base: Path, folder: Path, length: int = 16, probability: float = 0.15, seed: int = 42, test: int = 75, **how
) -> Path:
    """`test` is the first of the test rows."""
    folder.mkdir(exist_ok=True)
    rows = texts(90)
    parts = {"train": rows[:60], "validation": rows[60:75], "test": rows[test:]}
    files = {name: write_jsonl(folder / f"{name}.jsonl", part) for name, part in parts.items()}
    sources = {name: Resolved(uri=str(file), digest=digest_of(name, str(file))) for name, file in files.items()}
    settings = DataSettings(
        task="pretraining", kind="masked_lm", columns={"mlm_probability": probability}, max_length=length,
        preprocessing=Preprocessing(**how), seed=seed, **sources,
    )  # fmt: skip
    prepare_data(settings, base, folder / "data", folder / "data.html")
    return folder / "data"
