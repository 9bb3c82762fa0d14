"""Create the model and data of this example: a model that counts to twenty, without any training.

    "three four"  →  "five six seven … twenty"

Its weights are set by hand: the token after a word is the next number, and after the last one the end token. So the
right answer to every prompt is known, and a run can be compared with it.
"""

from __future__ import annotations

import json
import random
import sys
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from examples.made_once import make_once  # noqa: E402

SEED = 11
NUMBERS = [
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
]  # fmt: skip
END, UNKNOWN = "<|endoftext|>", "<|unknown|>"
WORDS = [END, UNKNOWN, *NUMBERS]
HIDDEN = 32  # at least as many as words: each has a direction of its own
LONGEST = 64  # tokens
ROWS = 40


def main() -> None:
    """Create base/ and data/ beside this file, unless they are current."""
    made = make_once(HERE, [Path(__file__), HERE.parent / "made_once.py"], make)
    print("made base/ and data/" if made else "base/ and data/ are current")


def make(folder: Path) -> None:
    """Write base/ and data/prompts.jsonl below `folder`."""
    build_model(folder / "base")
    chance = random.Random(SEED)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    rows = [row(number, chance) for number in range(ROWS)]
    lines = "".join(json.dumps(one) + "\n" for one in rows)
    (folder / "data" / "prompts.jsonl").write_text(lines, encoding="utf-8")


def row(number: int, chance: random.Random) -> dict:
    """Return some numbers in order, the numbers that follow, and where the prompt came from."""
    start = chance.randrange(len(NUMBERS) - 1)
    end = chance.randrange(start + 1, len(NUMBERS))
    return {
        "id": f"count-{number}",
        "prompt": " ".join(NUMBERS[start:end]),
        "answer": " ".join(NUMBERS[end:]),
        "length": end - start,
    }


def build_model(folder: Path) -> None:
    """Write a Llama whose layers add nothing, so that each word decides the next one, and its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    build_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=HIDDEN,
        intermediate_size=HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=WORDS.index(END),
        pad_token_id=WORDS.index(END),
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(len(WORDS), HIDDEN))
        model.lm_head.weight.zero_()
        for number, word in enumerate(WORDS):
            model.lm_head.weight[WORDS.index(follower(word)), number] = 1.0
    model.save_pretrained(folder)


def follower(word: str) -> str:
    """Return the next number; the end token after the last one, and after what is no number."""
    return dict(pairwise(NUMBERS)).get(word, END)


def build_tokenizer(folder: Path) -> None:
    """Write a tokenizer with one token for each word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token=END, pad_token=END, unk_token=UNKNOWN, model_max_length=LONGEST
    )
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
