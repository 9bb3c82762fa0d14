"""A model of random weights whose answers have very different lengths, and prompts for it."""

import math
import random
from pathlib import Path

VOCABULARY, ENDS = 4096, 64  # tokens, and how many of them end an answer


def build(folder: Path) -> None:
    """Save the model with a tokenizer of one token per word, such as w17."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=384,
            intermediate_size=1024,
            num_hidden_layers=6,
            num_attention_heads=6,
            num_key_value_heads=6,
            max_position_embeddings=1024,
            initializer_range=0.1,  # large enough that answers do not repeat themselves soon
            tie_word_embeddings=True,
        )
    )
    ends = list(range(1, ENDS + 1))
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=0)
    model.save_pretrained(folder)
    named = {"<pad>": 0, "<end>": 1} | {f"w{number}": number for number in range(2, VOCABULARY)}
    words = Tokenizer(models.WordLevel(named, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>").save_pretrained(folder)


def random_prompts(count: int, shortest: int, longest: int, median: float, spread: float) -> list[list[int]]:
    """Make prompts of random tokens, whose lengths are log-normal with this median and deviation of the logarithm."""
    chance = random.Random(0)
    lengths = [min(longest, max(shortest, round(median * math.exp(chance.gauss(0, spread))))) for _ in range(count)]
    return [[chance.randrange(ENDS + 1, VOCABULARY) for _ in range(length)] for length in lengths]
