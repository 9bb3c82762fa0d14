"""Questions with contexts, and data artifacts made of them."""

from pathlib import Path

from conftest import write_jsonl

from steps.params.settings import DataSettings, Resolved
from steps.params.task_columns import AnswerColumns
from steps.prepare_data.step import prepare_data
from steps.sources.storage import digest_of

WORDS = ["apple", "pear", "plum", "iron", "zinc", "tin", "red", "blue", "green"]


def questions(count: int) -> list[dict]:
    """Make questions with a long and a short context by turns; every fourth has no answer."""
    rows = []
    for number in range(count):
        word = WORDS[number % 9]
        before = "the and a " * (1 + 3 * (number % 2)) + f"{number} "
        answers = {"text": [], "answer_start": []}
        if number % 4:
            answers = {"text": [f"{word} {word}"], "answer_start": [len(before)]}
        context = f"{before}{word} {word} and the ." if number % 4 else f"{before}and the ."
        rows.append({"question": "the red", "context": context, "answers": answers})
    return rows


def columns(stride: int = 4) -> dict:
    return AnswerColumns(doc_stride=stride).model_dump()


def prepared(
    base: Path, folder: Path, rows: list[dict] | None = None, length: int = 24, stride: int = 4, **how
) -> Path:
    folder.mkdir(exist_ok=True)
    rows = rows or questions(60)
    parts = {"train": rows[:40], "validation": rows[40:50], "test": rows[50:]}
    files = {name: write_jsonl(folder / f"{name}.jsonl", part) for name, part in parts.items()}
    sources = {name: Resolved(uri=str(file), digest=digest_of(name, str(file))) for name, file in files.items()}
    settings = DataSettings(
        task="question_answering", kind="question_answering", columns=columns(stride), max_length=length, **sources,
        **how,
    )  # fmt: skip
    prepare_data(settings, base, folder / "data", folder / "data.html")
    return folder / "data"
