"""The models of the benchmark in real shapes with random weights, and rows of random tokens with skewed lengths.

Nothing is downloaded: a shape is a configuration, its weights are drawn on the device and written as a model folder.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RANK, ALPHA = 16, 32  # of the adapter in every linear layer
SIGMA = 0.8  # of the logarithm of the lengths: the longest tenth of the rows has a quarter of the tokens


@dataclass(frozen=True)
class Shape:
    """A model, and how it is trained: the same rows per optimizer step in every arm."""

    family: str
    """model_type of transformers."""
    config: dict[str, Any]
    weights: float
    """Billions of parameters, about: whether it fits is decided before it is made."""
    steps: int
    """Optimizer steps, the skipped ones included."""
    skipped: int
    """Steps before the measured ones: kernels are compiled and chosen, and memory is taken from the driver."""
    batch: int = 8  # TRL's default
    accumulated: int = 2
    max_length: int = 1024  # TRL's default
    median: int = 440
    """Of the lengths of the rows; with the longest ones cut their mean is half of max_length."""
    expected_seconds: float = 60.0
    """For one arm, until one was measured."""

    @property
    def rows_per_step(self) -> int:
        return self.batch * self.accumulated

    @property
    def packed_batch(self) -> int:
        """Packed sequences per forward pass with about as many tokens as a batch of rows."""
        return max(1, self.batch // 2)


LLAMA_1B = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "tie_word_embeddings": True,
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
}  # fmt: skip
QWEN_7B = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False, "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
}  # fmt: skip
TINY = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 512, "tie_word_embeddings": True, "max_position_embeddings": 256,
}  # fmt: skip
SHAPES = {
    "llama-3.2-1b": Shape("llama", LLAMA_1B, 1.24, steps=16, skipped=4, expected_seconds=30),
    "qwen-2.5-7b": Shape("qwen2", QWEN_7B, 7.62, steps=8, skipped=2, expected_seconds=50),
    "tiny": Shape("llama", TINY, 0.0001, steps=4, skipped=1, batch=2, max_length=64, median=28, expected_seconds=20),
}


def lengths(shape: Shape, count: int, seed: int = 0) -> list[int]:
    """Return the lengths of rows in tokens: log-normal, at least a 64th of max_length, cut at max_length."""
    drawn = random.Random(seed)
    longest = shape.max_length
    return [
        min(longest, max(longest // 64, 4, int(drawn.lognormvariate(math.log(shape.median), SIGMA))))
        for _ in range(count)
    ]


def random_rows(shape: Shape, seed: int = 0) -> list[list[int]]:
    """Return rows of random tokens: a quarter more than all steps need, so that no epoch ends while it is measured."""
    drawn = random.Random(seed + 1)
    count = math.ceil(shape.steps * shape.rows_per_step * 1.25)
    vocabulary = shape.config["vocab_size"]
    return [[drawn.randrange(3, vocabulary) for _ in range(length)] for length in lengths(shape, count, seed)]


def make(shape: Shape, folder: Path, device: str) -> dict[str, int]:
    """Write model, rows and packed rows as the steps before finetune would; return how many weights are multiplied.

    {"base": weights of the frozen matrices, the head once and the embeddings not at all, "adapter": those of LoRA}
    """
    counts = counted(shape)
    _write_model(shape, folder / "model", device)
    rows = random_rows(shape)
    _write_tokens(rows, folder / "data")
    _write_tokens(rows, folder / "data-packed", packed_to=shape.max_length)
    # The plan reads rows as the user has them; their number is all that it takes from them here.
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": "a row"}) + "\n" for _ in rows))
    return counts


def configuration(shape: Shape) -> Any:
    """Return the transformers configuration."""
    from transformers import AutoConfig

    return AutoConfig.for_model(shape.family, pad_token_id=0, bos_token_id=1, eos_token_id=2, **shape.config)


def counted(shape: Shape) -> dict[str, int]:
    """Count the weights that a token is multiplied with, as the libraries make the model, without making it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(configuration(shape))
        base = sum(one.numel() for one in model.parameters() if one.dim() > 1)  # norms multiply no matrices
        if not shape.config["tie_word_embeddings"]:
            base -= model.get_input_embeddings().weight.numel()
        adapted = get_peft_model(model, LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM"))
    return {"base": base, "adapter": sum(one.numel() for one in adapted.parameters() if one.requires_grad)}


def _write_model(shape: Shape, folder: Path, device: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from steps.artifacts import new_artifact

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(configuration(shape), dtype=torch.bfloat16)
    with new_artifact(folder, "model", {"source": "random weights"}) as draft:
        model.save_pretrained(draft.path, max_shard_size="2GB")  # several files are hashed at a time
        _tokenizer().save_pretrained(draft.path)


def _tokenizer() -> Any:
    """Return a tokenizer that the trainers can load; the rows are tokens already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2}
    made = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def _write_tokens(rows: list[list[int]], folder: Path, packed_to: int = 0) -> None:
    import pyarrow.parquet as pq
    from datasets import Dataset
    from trl.data_utils import pack_dataset

    from steps.artifacts import new_artifact

    tokens = Dataset.from_dict({"input_ids": rows, "labels": rows})
    if packed_to:
        tokens = pack_dataset(tokens, packed_to, "bfd")
    with new_artifact(folder, "data") as draft:
        (draft / "tokens").mkdir()
        pq.write_table(tokens.data.table, draft / "tokens/train.parquet")
