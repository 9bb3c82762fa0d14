"""Create the model and data of this example: five digits are to be sorted, and only rewards tell the model so.

    "Sort: 8 2 7 1 4"  →  "1 2 4 7 8"

First the chat pipeline trains a random model on answers that have the digits of the question in a random order, so that
base/ answers in the right form with, mostly, the right digits, but never saw a sorted answer on purpose: of 120 orders
one is right, and a digit stands in its place in one case of five. data/ has questions with the right answer beside them
as `ground_truth`, for the rewards; the model does not see it.

Five different digits can be chosen in 252 ways. The questions of a split share their digits with no question of another
split, in whatever order, and the chats have only digits of the training questions.
"""

from __future__ import annotations

import itertools
import json
import random
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from examples.made_once import make_once  # noqa: E402
from examples.tiny_model import build_model  # noqa: E402

SEED = 19
CHATS = 11_200
CHOICES = {"train": 182, "validation": 20, "test": 50}  # of five digits
QUESTIONS = {"train": 22, "validation": 6, "test": 6}  # of each choice
CHAT = {
    "max_seq_length": 40, "train_on_completions_only": True, "number_of_gpu_to_use_finetuning": 0,
    "num_train_epochs": 1, "per_device_train_batch_size": 32, "learning_rate": 2e-3, "lr_scheduler_type": "linear",
    "warmup_steps": 30, "evaluation_max_rows": 1, "evaluation_max_new_tokens": 1, "seed": SEED,
    "gate_metric": "loss", "gate_max_value": 0.0, "gate_must_beat_base": False,  # so that nothing is registered
}  # fmt: skip


def main() -> None:
    """Create base/ and data/ beside this file, unless they are current."""
    sources = [Path(__file__), HERE.parent / "tiny_model.py", HERE.parent / "made_once.py"]
    made = make_once(HERE, sources, make)
    print("made base/ and data/" if made else "base/ and data/ are current")


def make(folder: Path) -> None:
    """Write base/ and one data/<split>.jsonl per split below `folder`."""
    chance = random.Random(SEED)
    choices = list(itertools.combinations(range(10), 5))
    chance.shuffle(choices)
    for name, count in CHOICES.items():
        chosen, choices = choices[:count], choices[count:]
        rows = [row for digits in chosen for row in questions(digits, QUESTIONS[name], chance)]
        write_rows(folder / "data" / f"{name}.jsonl", rows)
        if name == "train":
            train_base(folder, [chat(chance.choice(chosen), chance) for _ in range(CHATS)])


def questions(digits: tuple[int, ...], count: int, chance: random.Random) -> list[dict]:
    """Return different questions about the same digits, none of them sorted already, and their answer."""
    orders = [order for order in itertools.permutations(digits) if order != digits]
    asked = chance.sample(orders, count)
    return [{"problem": f"Sort: {written(order)}", "ground_truth": written(digits)} for order in asked]


def chat(digits: tuple[int, ...], chance: random.Random) -> dict:
    """Return a question about digits in random order, and as its answer the same digits in another random order."""
    asked, answer = (written(chance.sample(digits, len(digits))) for _ in range(2))
    return {"messages": [{"role": "user", "content": f"Sort: {asked}"}, {"role": "assistant", "content": answer}]}


def written(digits: tuple[int, ...] | list[int]) -> str:
    """Return digits with spaces between."""
    return " ".join(map(str, digits))


def train_base(folder: Path, chats: list[dict]) -> None:
    """Train a random model with the chat pipeline and keep it as base/."""
    from pipelines import runs

    scratch = folder / "chat"
    texts = ["user\nassistant\nsystem\n", *(message["content"] for row in chats for message in row["messages"])]
    build_model(scratch / "random", texts, chat=True)
    write_rows(scratch / "train.jsonl", chats)
    paths = {"pytorch_model_path": str(scratch / "random"), "train_file_path": str(scratch / "train.jsonl")}
    result = runs.run("chat_completion", {**CHAT, **paths}, scratch / "runs", cache=False, quiet=True)
    if result["status"] != "succeeded":
        raise SystemExit(f"the chat pipeline failed: {result['error']}")
    trained = Path(result["artifacts"]["model"])
    for file in sorted(trained.iterdir()):
        if file.name not in ("manifest.json", "history.json"):  # these name times and places
            shutil.copyfile(file, folder / "base" / file.name)
    shutil.rmtree(scratch)


def write_rows(file: Path, rows: list[dict]) -> None:
    """Write one JSON object per line."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
