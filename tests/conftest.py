"""Shared fixtures that are slow to build: a tiny chat model with its tokenizer, made offline."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models run ten times faster on one thread

import json
from pathlib import Path

import pytest

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SENTENCES = [
    "What is the capital of France? Paris is the capital of France.",
    "Count to ten: 1 2 3 4 5 6 7 8 9 10.",
    "The quick brown fox jumps over the lazy dog, again and again.",
    "user assistant system tool",
]


def build_tokenizer(folder: Path) -> None:
    """Train a byte-level BPE of 384 tokens with a ChatML template that marks the assistant's turns."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=256
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


def build_model(folder: Path, **changes: object) -> None:
    """Save a random two-layer Llama (hidden 64) with its tokenizer; `changes` go to its configuration."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    build_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        **changes,
    }
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**settings)).save_pretrained(folder)


def chat_rows(count: int) -> list[dict]:
    """Make conversations that differ from each other."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"What comes after {number}?"},
                {"role": "assistant", "content": f"{number + 1}."},
            ]
        }
        for number in range(count)
    ]


def write_jsonl(file: Path, rows: list[dict]) -> Path:
    """Write rows as a jsonl file."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random chat model and tokenizer, as a user would have it (no manifest)."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_model(folder)
    return folder


@pytest.fixture
def chat_file(tmp_path: Path) -> Path:
    """A jsonl file with 60 good conversations."""
    return write_jsonl(tmp_path / "chat.jsonl", chat_rows(60))


@pytest.fixture
def chat_inputs(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A model artifact and 40 + 16 tokenised conversations for a training that keeps its checkpoints below tmp_path."""
    from training_inputs import as_imported, write_tokens
    from transformers import AutoTokenizer

    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    model = as_imported(tiny_model, tmp_path / "model")
    return model, write_tokens(tmp_path / "data", AutoTokenizer.from_pretrained(tiny_model), chat_rows(56))
