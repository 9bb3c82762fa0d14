"""The learned tokens are those that the template marks, by the bytes of tokens or by the tokenizer's offsets."""

import json
import random
from itertools import pairwise

import numpy as np
import pytest
from conftest import CHAT_TEMPLATE, SENTENCES, build_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

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


def byte_fallback(folder):
    """As Llama's: blanks become ▁, one is put in front, and an unknown character becomes one token for each byte."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<|im_start|>", "<|im_end|>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(SENTENCES * 4, trainers.BpeTrainer(vocab_size=460, special_tokens=special[:3]))
    vocabulary = json.loads(tokenizer.to_str())
    size = len(vocabulary["model"]["vocab"])
    vocabulary["model"]["vocab"] |= {byte: size + place for place, byte in enumerate(special[3:])}
    tokenizer = Tokenizer.from_str(json.dumps(vocabulary))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", unk_token="<unk>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def lowering(folder):
    return byte_level(folder, normalizer=normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()]))


LOSSLESS = [byte_level, trimming]
OTHERS = [with_prefix_space, normalising, lowering, stripping, metaspace, byte_fallback]

ANSWER = "{% if m.role == 'assistant' %}{% generation %}@{% endgeneration %}{% else %}#{% endif %}"


def template(answer, question="<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>"):
    return "{% for m in messages %}" + ANSWER.replace("@", answer).replace("#", question) + "{% endfor %}"


TURN = "{{ m.content + '<|im_end|>' }}"
# Name → template; those of BOUNDED have a control token on both sides of every mark, so no token can span its ends.
BOUNDED = {
    "usual": CHAT_TEMPLATE,
    "blank first": template("{{ ' ' + m.content + '<|im_end|>' }}"),
    "blank last": template("{{ m.content + '<|im_end|> ' }}"),
    "line end last": template("{{ m.content + '<|im_end|>\n' }}"),
    "bare": template("{{ m.content }}"),
    "no turns": template("{{ m.content }}", "<|im_end|>"),
    "several pieces": template("<|im_start|>{% endgeneration %}<|im_end|>{% generation %}" + TURN),
    "empty mark": template("{% endgeneration %}{% generation %}" + TURN),
}
GLUED = {
    "without turns": template("{{ m.content }}", "{{ m.content }}"),
    "blank before text": template("{{ m.content + ' ' }}", "{{ m.content }}"),
    "end not learned": template("{{ m.content }}{% endgeneration %}\n{% generation %}"),
    "first character": "{% for m in messages %}{% generation %}{{ m.content[0] }}{% endgeneration %} {{ m.content }}"
    "{% endfor %}",
    "header of letters": template("{{ m.content }}", "user: {{ m.content }}\nassistant: "),
}
ROWS = [
    *([{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in
      [("one", "one"), (" ", " "), ("two", ""), ("", "two "), ("a", "\u00a0"), ("😀", "😀"), ("x", "👩‍👩‍👧 "),
       ("ü", "u\u0308"), ("Say", "  two"), ("y", "\n"), ("ONE", "One Two")]),
    *([{"role": "assistant", "content": a}, {"role": "user", "content": q}, {"role": "assistant", "content": b}]
      for a, q, b in (("A", "Secret", "B"), (" ", " Secret", ""))),
]  # fmt: skip


def all_rows(count=60):
    return [{"messages": messages} for messages in ROWS] + conversations(count)


def as_marked(tokenizer, row, chat_template):
    """Return the text of a conversation and, for every character, whether it is marked."""
    [text], [spans] = render_jinja_template(
        conversations=[row["messages"]], chat_template=chat_template, return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )  # fmt: skip
    marked = np.zeros(len(text), bool)
    for first, end in spans:
        marked[first:end] = True
    return text, marked


def learned_of(made):
    for first, end in pairwise(made.starts):
        yield [label for label in made.labels[first:end].tolist() if label != NO_LOSS]


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("build", LOSSLESS)
def test_the_learned_tokens_spell_what_the_template_marks(tmp_path, build, name):
    tokenizer, rows = build(tmp_path), all_rows()
    made = tokenise(tokenizer, rows, completions_only=True, template=BOUNDED[name])
    for row, ids in zip(rows, learned_of(made), strict=True):
        text, marked = as_marked(tokenizer, row, BOUNDED[name])
        expected = "".join(character for character, mark in zip(text, marked, strict=True) if mark)
        assert tokenizer.decode(ids) == expected


@pytest.mark.parametrize("name", [*BOUNDED, *GLUED])
@pytest.mark.parametrize("build", [*LOSSLESS, *OTHERS])
def test_a_token_is_learned_if_more_than_its_outer_blanks_are_marked(tmp_path, build, name):
    """By the characters of each token, which a copy of the tokenizer tells that leaves out no blanks."""
    tokenizer, rows, chat_template = build(tmp_path), all_rows(), {**BOUNDED, **GLUED}[name]
    exact = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    exact.post_processor = None
    made = tokenise(tokenizer, rows, completions_only=True, template=chat_template)
    some = []
    for row, (first, end) in zip(rows, pairwise(made.starts), strict=True):
        text, marked = as_marked(tokenizer, row, chat_template)
        encoding = exact.encode(text, add_special_tokens=False)
        assert encoding.ids == made.ids[first:end].tolist()
        for place, (start, stop) in enumerate(encoding.offsets):
            inside = "".join(text[at] for at in range(start, stop) if marked[at])
            outside = "".join(text[at] for at in range(start, stop) if not marked[at])
            if stop > start:  # otherwise a blank of the tokenizer's own
                learned = bool(inside) and (bool(inside.strip()) or not outside.strip())
                assert (made.labels[first + place] != NO_LOSS) == learned, (text, place, text[start:stop])
                some.append(learned)
    assert set(some) == {True, False}


@pytest.mark.parametrize("build", [*LOSSLESS, *OTHERS])
def test_the_marked_tokens_are_those_of_transformers_where_answers_end_visibly(tmp_path, build):
    tokenizer = build(tmp_path)
    rows = [row for row in conversations() if all(m["content"] == m["content"].strip() for m in row["messages"])]
    assert len(rows) > 20
    made = tokenise(tokenizer, rows, completions_only=True, template=CHAT_TEMPLATE)
    expected = [
        tokenizer.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True)
        for row in rows
    ]
    assert made.ids.tolist() == [token for row in expected for token in row["input_ids"]]
    masks = np.array([mark for row in expected for mark in row["assistant_masks"]], bool)
    assert masks.any()
    assert not masks.all()
    assert ((made.labels != NO_LOSS) == masks).all()


SAID = "<|im_start|>assistant\\n{% generation %}" + TURN + "{% endgeneration %}"
INSIDE = {
    "a macro": "{% macro say(m) %}" + SAID + "{% endmacro %}@{{ say(m) }}#",
    "an assigned block": "@{% set x %}" + SAID + "{% endset %}{{ x }}#",
    "an assigned block with a filter": "@{% set x | upper %}" + SAID + "{% endset %}{{ x | lower }}#",
    "a filter": "@{%- filter trim -%}  " + SAID + "{% endfilter %}#",
    "a call": "{% macro put() %}[{{ caller() }}]{% endmacro %}@{% call put() %}" + SAID + "{% endcall %}#",
    "two macros": "{% macro a(m) %}" + SAID + "{% endmacro %}{% macro b(m) %}>{{ a(m) }}{% endmacro %}@{{ b(m) }}#",
    "a mark in a mark": "@{% generation %}{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>"
    "{% endgeneration %}#",
}


@pytest.mark.parametrize("name", INSIDE)
def test_marks_inside_other_blocks_are_where_the_answer_is(tmp_path, name):
    """transformers 5.17, and so TRL, learn the text before the answer instead."""
    start, end = (
        "{% for m in messages %}{% if m.role == 'assistant' %}",
        "{% else %}{{ m.content }}{% endif %}{% endfor %}",
    )
    chat_template = INSIDE[name].replace("@", start).replace("#", end)
    tokenizer = byte_level(tmp_path)
    rows = [{"messages": [*SECRET, {"role": "user", "content": "ü"}, {"role": "assistant", "content": "ü two"}]}]
    rows += [{"messages": [{"role": "user", "content": "\ufdd0"}, {"role": "assistant", "content": "A"}]}]
    made = tokenise(tokenizer, rows[:1], completions_only=True, template=chat_template)
    [ids] = learned_of(made)
    assert tokenizer.decode(ids).lower() == "a<|im_end|>b<|im_end|>ü two<|im_end|>"
    assert len(tokenise(tokenizer, rows, completions_only=True, template=chat_template)) == 2
    whole = tokenizer.apply_chat_template(rows[0]["messages"], chat_template=chat_template, tokenize=False)
    assert tokenizer.decode(made.ids.tolist()) == whole


SECRET = [{"role": role, "content": text} for role, text in
          (("user", "Say"), ("assistant", "A"), ("user", "Secret"), ("assistant", "B"))]  # fmt: skip


@pytest.mark.parametrize(
    ("build", "name", "messages"),
    [(trimming, "blank last", SECRET), (byte_level, "bare", SECRET[1:]), (trimming, "bare", [
        *SECRET[:1], {"role": "assistant", "content": "A "}, *SECRET[2:]])],
    ids=["the marks end in a blank", "the first answer is token 0", "an answer ends in a blank"],
)  # fmt: skip
def test_the_next_question_is_not_learned_although_trl_learns_it(tmp_path, build, name, messages):
    """transformers 5.17, and so TRL, learn the rest of the row where the last token has the number 0 or no place."""
    tokenizer = build(tmp_path)
    made = tokenise(tokenizer, [{"messages": messages}], completions_only=True, template=BOUNDED[name])
    [ids] = learned_of(made)
    assert "Secret" not in tokenizer.decode(ids)
    assert tokenizer.decode(ids).replace("<|im_end|>", "").split() == ["A", "B"] or tokenizer.decode(ids) in (
        "AB",
        "A B",
    )
    theirs = tokenizer.apply_chat_template(
        messages, chat_template=BOUNDED[name], return_dict=True, return_assistant_tokens_mask=True
    )
    pairs = zip(theirs["input_ids"], theirs["assistant_masks"], strict=True)
    assert "Secret" in tokenizer.decode([token for token, mark in pairs if mark])


@pytest.mark.parametrize("build", [byte_level, byte_fallback])
def test_every_token_of_an_answers_last_character_is_learned_although_trl_learns_the_first(tmp_path, build):
    tokenizer = build(tmp_path)
    messages = [{"role": "user", "content": "Face"}, {"role": "assistant", "content": "Yes 😀"}]
    [ids] = learned_of(tokenise(tokenizer, [{"messages": messages}], True, BOUNDED["bare"]))
    assert tokenizer.decode(ids).strip() == "Yes 😀"
    theirs = tokenizer.apply_chat_template(
        messages, chat_template=BOUNDED["bare"], return_dict=True, return_assistant_tokens_mask=True
    )
    assert sum(theirs["assistant_masks"]) == len(ids) - 3


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
