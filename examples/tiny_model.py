"""A random Llama of 0.85 million parameters and a tokenizer trained on the example's texts.

Small enough to learn a task from scratch in a minute of CPU time; otherwise an ordinary Hugging Face model folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY = 512  # tokens at most; texts with few words give fewer
LONGEST = 256  # tokens
END_OF_TURN = "<|im_end|>"
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", END_OF_TURN]
# ChatML; `generation` marks the assistant's text including its end token, so that only this is learned.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_model(folder: Path, texts: Iterable[str], chat: bool | None, seed: int = 0) -> None:
    """Write config, random weights and a tokenizer trained on `texts`; equal inputs give equal bytes.

    `chat` is as in `build_tokenizer`.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer(folder, texts, chat)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=True,
        initializer_range=128**-0.5,  # the default of 0.02 is for wide models and would learn more slowly here
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)


def build_masked_model(folder: Path, words: Iterable[str], seed: int = 0) -> None:
    """Write a random ModernBERT and its tokenizer with one token for each of `words`; equal inputs give equal bytes."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertTokenizerFast, ModernBertConfig, ModernBertForMaskedLM

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys([*special, *words]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=LONGEST).save_pretrained(folder)
    config = ModernBertConfig(
        vocab_size=len(vocabulary),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=LONGEST,
        global_attn_every_n_layers=1,
        initializer_range=128**-0.5,
        pad_token_id=vocabulary["[PAD]"],
        bos_token_id=vocabulary["[CLS]"],
        cls_token_id=vocabulary["[CLS]"],
        eos_token_id=vocabulary["[SEP]"],
        sep_token_id=vocabulary["[SEP]"],
    )
    torch.manual_seed(seed)
    ModernBertForMaskedLM(config).save_pretrained(folder)


def build_translator(folder: Path, words: Iterable[str], seed: int = 0) -> None:
    """Write a random BART and its tokenizer with one token for each of `words`; equal inputs give equal bytes."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys([*special, *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 0))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        model_max_length=LONGEST, clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)  # fmt: skip
    config = BartConfig(
        vocab_size=len(vocabulary),
        d_model=128,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=256,
        decoder_ffn_dim=256,
        max_position_embeddings=LONGEST,
        dropout=0.0,
        init_std=128**-0.5,
        scale_embedding=True,
        forced_eos_token_id=None,
    )
    torch.manual_seed(seed)
    BartForConditionalGeneration(config).save_pretrained(folder)


def build_tokenizer(folder: Path, texts: Iterable[str], chat: bool | None) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on `texts` and save it.

    Digits are single tokens, so that the model can copy and reorder them. With `chat` the tokenizer has a chat template
    and a turn ends with <|im_end|>; without, a text ends with <|endoftext|>. With None it has neither chat tokens nor a
    padding token.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the order of equally frequent merges must not depend on threads
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS[:1] if chat is None else SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN if chat else "<|endoftext|>",
        pad_token=None if chat is None else "<|endoftext|>" if chat else END_OF_TURN,
        model_max_length=LONGEST,
    )
    if chat:
        fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return fast
