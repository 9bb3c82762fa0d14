"""Answers found by the bytes of tokens equal those found by the tokenizer's own offsets."""

import random

import numpy as np
import pytest
from conftest import CHAT_TEMPLATE, SENTENCES, build_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from steps.prepare_data.write import offsets
from steps.prepare_data.write.tokenising import NO_LOSS, tokenise

WORDS = [
    "one",
    " two",
    "\nthree ",
    "ü",
    "u\u0308",
    "漢字",
    "😀",
    "👩‍👩‍👧",
    "\u00a0",
    "\t",
    "<|im_end|>",
    "é",
    "ﬁ",
    "x" * 30,
    "Ġ",
]


def conversations(count=200):
    draw = random.Random(5)

    def text():
        return "".join(draw.choice(WORDS) for _ in range(draw.randint(1, 9)))

    return [
        {
            "messages": [
                {"role": role, "content": text()} for _ in range(draw.randint(1, 3)) for role in ("user", "assistant")
            ]
        }
        for _ in range(count)
    ]


def byte_level(folder, **parts):
    build_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name, part in parts.items():
        setattr(tokenizer.backend_tokenizer, name, part)
    return tokenizer


def with_prefix_space(folder):
    return byte_level(folder, pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True))


def trimming(folder):
    return byte_level(folder, post_processor=processors.ByteLevel(trim_offsets=True))


def normalising(folder):
    return byte_level(folder, normalizer=normalizers.NFKC())


def stripping(folder):
    """An added token that takes the blanks around it with it."""
    from tokenizers import AddedToken

    tokenizer = byte_level(folder)
    tokenizer.add_tokens([AddedToken("two", lstrip=True, rstrip=True)])
    return tokenizer


def metaspace(folder):
    """A vocabulary of characters, as SentencePiece makes them."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<unk>", "<|im_start|>", "<|im_end|>"]
    tokenizer.train_from_iterator(SENTENCES * 4, trainers.BpeTrainer(vocab_size=200, special_tokens=special))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", unk_token="<unk>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


BLANK_FIRST = CHAT_TEMPLATE.replace("{% generation %}", "{% generation %} ")
EMPTY = CHAT_TEMPLATE.replace("{% generation %}", "{% generation %}{% endgeneration %}{% generation %}")
# transformers takes a last token with the number 0 for none, and marks the whole row.
FIRST_TOKEN = "{% for m in messages %}{% generation %}{{ m.content[0] }}{% endgeneration %} {{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    "template", [CHAT_TEMPLATE, BLANK_FIRST, EMPTY, FIRST_TOKEN], ids=["usual", "blank", "empty", "1"]
)
@pytest.mark.parametrize("build", [byte_level, with_prefix_space, trimming, normalising, stripping, metaspace])
def test_the_marked_tokens_are_those_of_transformers(tmp_path, build, template):
    tokenizer = build(tmp_path)
    rows = conversations()
    made = tokenise(tokenizer, rows, completions_only=True, template=template)
    expected = [
        tokenizer.apply_chat_template(
            row["messages"], chat_template=template, return_dict=True, return_assistant_tokens_mask=True
        )
        for row in rows
    ]
    assert made.ids.tolist() == [token for row in expected for token in row["input_ids"]]
    masks = np.array([mark for row in expected for mark in row["assistant_masks"]], bool)
    if template == CHAT_TEMPLATE:
        assert masks.any()
        assert not masks.all()
    assert ((made.labels != NO_LOSS) == masks).all()


def test_plain_tokens_need_no_offsets(tmp_path, monkeypatch):
    """Otherwise the time would be saved nowhere."""
    tokenizer = byte_level(tmp_path)
    known = offsets.spelling(tokenizer)
    texts = ["a<|im_end|>ü\u0308漢 ", "😀"]
    rows = [tokenizer(text)["input_ids"] for text in texts]
    ids = np.array([token for row in rows for token in row], np.int32)
    learned = np.zeros(len(ids), bool)
    assert offsets.mark(learned, known, rows, ids, texts, [[(0, 1), (11, 13)], []]) == []
    assert learned.any()
    assert offsets.mark(learned, known, rows, ids, ["another", "😀"], [[], []]) == [0]


def test_vocabularies_that_are_not_of_bytes_are_left_to_the_tokenizer(tmp_path):
    assert offsets.spelling(metaspace(tmp_path)) is None
