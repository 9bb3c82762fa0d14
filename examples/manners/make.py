"""Create the model and data of this example: pairs of answers; the better one has the tone of the question.

    "Good morning, could you please tell me where the copper kettle is?"
        better  "Certainly: you will find the copper kettle in the attic. It was a pleasure."
        worse   "copper kettle? attic. bye"
    "yo, where's the copper kettle?"
        the reverse

Each tone is better for some questions, so a model must read the question: one that always prefers the same tone is
right in half of the pairs. No thing of the test pairs is in the training pairs.

data/adapter/ is an earlier training result: a LoRA adapter for the same model that was trained on answers of both tones
and generates either, independent of the question.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from examples.made_once import make_once  # noqa: E402
from examples.tiny_model import build_model  # noqa: E402

SEED = 13
ADAPTER_STEPS, ADAPTER_BATCH = 100, 16
ROWS = {"train": 2000, "validation": 150, "test": 300}
FORMAL = (
    "Good morning, could you please tell me where the {thing} is?",
    "Would you be so kind as to show me the {thing}?",
    "Excuse me, may I ask where I can find the {thing}?",
    "I would be grateful to learn where the {thing} is kept.",
)
CASUAL = (
    "yo, where's the {thing}?",
    "hey, seen the {thing}?",
    "{thing}, where's that at?",
    "so where'd the {thing} go?",
)
POLITE = (
    "Certainly: you will find the {thing} in the {place}. It was a pleasure.",
    "With pleasure. The {thing} is in the {place}, at your service.",
)
SHORT = ("{thing}? {place}. bye", "{place}, duh")
COLOURS = ("copper", "silver", "wooden", "woollen", "painted", "broken", "heavy", "tiny", "velvet", "rusty", "marble")
THINGS = ("kettle", "ladder", "mirror", "basket", "lantern", "carpet", "hammer", "pillow", "bottle", "drawer", "saddle")
NUMBERS = range(10, 40)
PLACES = ("attic", "cellar", "garden", "kitchen", "stable", "hall")


def main() -> None:
    """Create base/ and data/ beside this file, unless they are current."""
    sources = [Path(__file__), HERE.parent / "tiny_model.py", HERE.parent / "made_once.py"]
    made = make_once(HERE, sources, make)
    print("made base/ and data/" if made else "base/ and data/ are current")


def make(folder: Path) -> None:
    """Write base/ and, below data/, each split as pairs and as rated answers (one of each pair), and an adapter."""
    chance = random.Random(SEED)
    things = [f"{colour} {thing} {number}" for colour in COLOURS for thing in THINGS for number in NUMBERS]
    chance.shuffle(things)
    texts = ["user\nassistant\nsystem\n"]
    for name, count in ROWS.items():
        pairs = [pair(things.pop(), chance) for _ in range(count)]
        write_rows(folder / "data" / f"{name}.jsonl", pairs)
        write_rows(folder / "data" / f"rated_{name}.jsonl", [rated(one, chance) for one in pairs])
        if name == "train":
            training = pairs
            texts += [str(text) for one in pairs for text in (one["prompt"], one["chosen"], one["rejected"])]
    build_model(folder / "base", texts, chat=True)
    train_adapter(folder / "base", folder / "data" / "adapter", training, random.Random(SEED + 1))


def pair(thing: str, chance: random.Random) -> dict:
    """Return a question about a thing in one tone, with two answers; the one in the same tone is better."""
    place = chance.choice(PLACES)
    polite, short = (chance.choice(forms).format(thing=thing, place=place) for forms in (POLITE, SHORT))
    formal = chance.random() < 0.5
    asked = chance.choice(FORMAL if formal else CASUAL).format(thing=thing)
    better, worse = (polite, short) if formal else (short, polite)
    return {
        "prompt": [{"role": "user", "content": asked}],
        "chosen": [{"role": "assistant", "content": better}],
        "rejected": [{"role": "assistant", "content": worse}],
    }


def rated(one: dict, chance: random.Random) -> dict:
    """Return one answer of a pair, and whether it is the better one."""
    good = chance.random() < 0.5
    return {"prompt": one["prompt"], "completion": one["chosen" if good else "rejected"], "label": good}


def train_adapter(base: Path, folder: Path, pairs: list[dict], chance: random.Random) -> None:
    """Train an adapter with PEFT on one answer of each pair, better or worse, so that the model learns to answer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)  # equal bytes whatever the machine
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(base)
    shape = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), shape)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=5e-3)
    for start in range(0, ADAPTER_STEPS * ADAPTER_BATCH, ADAPTER_BATCH):
        rows = [one["prompt"] + one[chance.choice(("chosen", "rejected"))] for one in pairs[start:][:ADAPTER_BATCH]]
        batch = tokenizer([tokenizer.apply_chat_template(row, tokenize=False) for row in rows], padding=True,
                          add_special_tokens=False, return_tensors="pt")  # fmt: skip
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink()
    described = folder / "adapter_config.json"
    told = json.loads(described.read_text())
    # PEFT writes where the base was, and names its layers in the order of a set.
    told |= {"base_model_name_or_path": "examples/manners/base", "target_modules": sorted(told["target_modules"])}
    described.write_text(json.dumps(told, indent=1, sort_keys=True), encoding="utf-8")


def write_rows(file: Path, rows: list[dict]) -> None:
    """Write one JSON object per line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
