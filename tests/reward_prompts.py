"""Prompts with right answers, and data artifacts for training with rewards made of them."""

from pathlib import Path

from conftest import write_jsonl

from steps.params.data import Preprocessing
from steps.params.settings import DataSettings, Resolved
from steps.prepare_data.step import prepare_data
from steps.sources.storage import digest_of


def prompt_rows(count: int) -> list[dict]:
    """Make prompts that differ from each other, with the right answer and a level."""
    return [
        {"problem": f"What comes after {number}?", "solution": str(number + 1), "level": number % 3}
        for number in range(count)
    ]


def rewarded_settings(folder: Path, rows: list[dict], **changes) -> DataSettings:
    """Write rows as train (all but the last 24), validation and test, and give the settings to prepare them."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": rows[:-24], "validation": rows[-24:-12], "test": rows[-12:]}
    files = {name: write_jsonl(folder / f"{name}.jsonl", part) for name, part in parts.items()}
    sources = {name: Resolved(uri=str(file), digest=digest_of(name, str(file))) for name, file in files.items()}
    preprocessing = Preprocessing(**changes.pop("preprocessing", {}))
    usual = {"max_prompt_length": 64, "max_completion_length": 16, **changes}
    return DataSettings(task="grpo", method="grpo", preprocessing=preprocessing, **sources, **usual)


def prepared_prompts(base: Path, folder: Path, rows: list[dict], **changes) -> Path:
    prepare_data(rewarded_settings(folder, rows, **changes), base, folder / "data", folder / "data.html")
    return folder / "data"
