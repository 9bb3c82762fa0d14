"""Preference pairs and rated answers that can be learned, and data artifacts made of them."""

from pathlib import Path

from conftest import write_jsonl

from steps.params.data import Preprocessing
from steps.params.settings import DataSettings, Resolved
from steps.prepare_data.step import prepare_data
from steps.sources.storage import digest_of


def turn(role: str, text: str) -> list[dict]:
    return [{"role": role, "content": text}]


def pair_rows(count: int, chat: bool = True) -> list[dict]:
    """Make pairs that differ from each other; the better answer is the next number."""
    rows = []
    for number in range(count):
        texts = (f"What comes after {number}?", f" {number + 1}, of course.", f" not {number}")
        if chat:
            roles = ("user", "assistant", "assistant")
            texts = tuple(turn(role, text.strip()) for role, text in zip(roles, texts, strict=True))
        rows.append(dict(zip(("prompt", "chosen", "rejected"), texts, strict=True)))
    return rows


def rated_rows(count: int, chat: bool = True) -> list[dict]:
    """Make rated answers; every third is bad."""
    return [
        {
            "prompt": row["prompt"],
            "completion": row["rejected" if number % 3 == 0 else "chosen"],
            "label": number % 3 > 0,
        }
        for number, row in enumerate(pair_rows(count, chat))
    ]


def data_settings(folder: Path, rows: list[dict], length: int = 64, **changes) -> DataSettings:
    """Write rows as train (all but the last 24), validation and test, and give the settings to prepare them."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": rows[:-24], "validation": rows[-24:-12], "test": rows[-12:]}
    files = {name: write_jsonl(folder / f"{name}.jsonl", part) for name, part in parts.items()}
    sources = {name: Resolved(uri=str(file), digest=digest_of(name, str(file))) for name, file in files.items()}
    preprocessing = Preprocessing(**changes.pop("preprocessing", {}))
    task = changes.pop("task", "") or ("preference" if "chosen" in rows[0] else "kto")
    return DataSettings(
        task=task, method="dpo", max_length=length, preprocessing=preprocessing, **sources, **changes
    )  # fmt: skip


def prepared(base: Path, folder: Path, rows: list[dict], length: int = 64, **changes) -> Path:
    prepare_data(data_settings(folder, rows, length, **changes), base, folder / "data", folder / "data.html")
    return folder / "data"
