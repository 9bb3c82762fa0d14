"""Renamed tokens: how transformers uses the tokenizer afterwards, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CHAT_TEMPLATE, SENTENCES, build_tokenizer

from steps.adapter_tools.tokens import replace_tokens
from steps.artifacts import new_artifact, read_manifest
from steps.errors import UserError
from steps.models.token_files import in_text

TEXT = "What is the capital of France?{}\nParis{}"
TALK = [{"role": "user", "content": "Count to ten"}, {"role": "assistant", "content": "1 2 3"}]


def build_unigram(folder: Path) -> None:
    """A Unigram tokenizer with a template around the text and an unknown token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<|im_start|>", "<|im_end|>", "<pad>"]
    tokenizer.train_from_iterator(
        SENTENCES * 4, trainers.UnigramTrainer(vocab_size=80, special_tokens=special, unk_token="<unk>")
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", pair="<|im_start|> $A <|im_end|> $B:1 <|im_end|>:1",
        special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)],
    )  # fmt: skip
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
    ).save_pretrained(folder)


def build_wordpiece(folder: Path) -> None:
    """A BERT tokenizer, whose pieces stand in vocab.txt too."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "<|im_end|>", "[MASK]"]
    tokenizer.train_from_iterator(SENTENCES * 4, trainers.WordPieceTrainer(vocab_size=120, special_tokens=special))
    tokenizer.post_processor = processors.BertProcessing(("<|im_end|>", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="<|im_end|>"
    )
    fast.save_pretrained(folder)
    words = sorted(fast.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word, _ in words))


KINDS: dict[str, Callable[[Path], None]] = {
    "bpe": build_tokenizer,
    "unigram": build_unigram,
    "wordpiece": build_wordpiece,
}


@pytest.fixture
def tokenizer(tmp_path) -> Path:
    build_tokenizer(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def load(folder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_texts_and_templates_stay_what_they_were(tmp_path, kind):
    KINDS[kind](tmp_path / "before")
    replace_tokens(tmp_path / "before", tmp_path / "after", ["<|im_end|>"], ["</s>"])
    old, new = load(tmp_path / "before"), load(tmp_path / "after")
    place = old.convert_tokens_to_ids("<|im_end|>")
    assert new.convert_tokens_to_ids("</s>") == place
    assert "<|im_end|>" not in new.get_vocab()
    assert len(new) == len(old)
    assert new.encode(TEXT.format("</s>", "</s>")) == old.encode(TEXT.format("<|im_end|>", "<|im_end|>"))
    assert place in new.encode(TEXT.format("</s>", "</s>"), add_special_tokens=False)
    assert new.encode("Count to ten", "1 2 3") == old.encode("Count to ten", "1 2 3")
    assert new.decode([place]) == "</s>"
    assert (new.eos_token_id, new.sep_token_id) == (old.eos_token_id, old.sep_token_id)
    assert "</s>" in (new.eos_token, new.sep_token)
    if old.chat_template:
        told = [each.apply_chat_template(TALK, tokenize=True, return_dict=False) for each in (old, new)]
        assert told[0] == told[1]
        assert "<|im_end|>" not in new.apply_chat_template(TALK, tokenize=False)
    for file in (tmp_path / "after").iterdir():
        assert file.name == "manifest.json" or "<|im_end|>" not in file.read_text("utf-8")


def test_tokens_can_be_exchanged(tokenizer, tmp_path):
    replace_tokens(tokenizer, tmp_path / "after", ["<|im_end|>", "<|im_start|>"], ["<|im_start|>", "<|im_end|>"])
    old, new = load(tokenizer), load(tmp_path / "after")
    ids = new.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>"])
    assert ids == old.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert new.apply_chat_template(TALK, tokenize=True, return_dict=False) == (
        old.apply_chat_template(TALK, tokenize=True, return_dict=False)
    )


def test_files_of_older_tokenizers_are_changed_too(tokenizer, tmp_path):
    content = json.loads((tokenizer / "tokenizer.json").read_text())
    written = {
        "special_tokens_map.json": {"eos_token": {"content": "<|im_end|>"}, "extra": ["<|im_start|>", "<|im_end|>"]},
        "added_tokens.json": {"<|im_start|>": 1, "<|im_end|>": 2},
        "vocab.json": content["model"]["vocab"],
        "generation_config.json": {"eos_token_id": 2},
    }
    for name, value in written.items():
        (tokenizer / name).write_text(json.dumps(value))
    config = json.loads((tokenizer / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {"2": {"content": "<|im_end|>", "special": True}}
    config["chat_template"] = CHAT_TEMPLATE
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(config))
    replace_tokens(tokenizer, tmp_path / "after", ["<|im_end|>"], ["</s>"])

    def read(name: str) -> dict:
        return json.loads((tmp_path / "after" / name).read_text())

    assert read("special_tokens_map.json") == {"eos_token": {"content": "</s>"}, "extra": ["<|im_start|>", "</s>"]}
    assert read("added_tokens.json") == {"<|im_start|>": 1, "</s>": 2}
    assert read("vocab.json")["</s>"] == 2
    assert list(read("vocab.json")) == [{"<|im_end|>": "</s>"}.get(name, name) for name in written["vocab.json"]]
    assert read("tokenizer_config.json")["added_tokens_decoder"]["2"]["content"] == "</s>"
    assert read("tokenizer_config.json")["chat_template"] == CHAT_TEMPLATE.replace("<|im_end|>", "</s>")
    assert (tmp_path / "after/generation_config.json").read_bytes() == (
        tokenizer / "generation_config.json"
    ).read_bytes()


def test_a_model_keeps_its_weights_and_says_what_was_renamed(tiny_model, tmp_path):
    manifest = replace_tokens(tiny_model, tmp_path / "after", ["<|im_end|>"], ["</s>"])
    assert manifest.kind == "model"
    assert manifest.facts["renamed_tokens"] == {"<|im_end|>": "</s>"}
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "after" / name).read_bytes() == (tiny_model / name).read_bytes()
    assert read_manifest(tmp_path / "after").digest == manifest.digest


def test_an_artifact_stays_of_its_kind_and_keeps_its_history(tokenizer, tmp_path):
    with new_artifact(tmp_path / "artifact", "tokenizer", {"source": "s3://models/base"}) as draft:
        for file in tokenizer.iterdir():
            shutil.copyfile(file, draft / file.name)
    replace_tokens(tmp_path / "artifact", tmp_path / "after", ["<|im_end|>"], ["</s>"])
    manifest = read_manifest(tmp_path / "after", "tokenizer")
    assert manifest.lineage["source"] == "s3://models/base"
    assert manifest.lineage["renamed_from"] == read_manifest(tmp_path / "artifact").digest


def test_sentencepiece_files_with_the_old_names_are_left_out(tokenizer, tmp_path, caplog):
    caplog.set_level("INFO", "finetune")
    (tokenizer / "tokenizer.model").write_bytes(b"old names")
    replace_tokens(tokenizer, tmp_path / "after", ["<|im_end|>"], ["</s>"])
    assert not (tmp_path / "after/tokenizer.model").exists()
    assert "tokenizer.model left out" in caplog.text


REFUSED = {
    "an unknown token": (["<|im_nd|>"], ["</s>"], "ADAPTER-E0303", "did you mean <|im_end|>?"),
    "a name that exists": (["<|im_end|>"], ["<|im_start|>"], "ADAPTER-E0304", "already a token"),
    "a piece as a name": (["<|im_end|>"], ["a"], "ADAPTER-E0304", "already a token"),
    "a name for two": (["<|im_end|>", "<|im_start|>"], ["</s>", "</s>"], "ADAPTER-E0304", "already a token"),
    "a piece of words": (["th"], ["</s>"], "ADAPTER-E0303", "a piece of a BPE merge"),
    "a name with a quote": (["<|im_end|>"], ["it's"], "ADAPTER-E0304", "without quotes"),
    "a name with a brace": (["<|im_end|>"], ["{{x}}"], "ADAPTER-E0304", "without quotes"),
    "no name": (["<|im_end|>"], [""], "ADAPTER-E0304", "without quotes"),
    "a word of the template": (["<|im_end|>"], ["assistant"], "ADAPTER-E0304", "contains as plain text"),
    "names missing": (["<|im_end|>", "<|im_start|>"], ["</s>"], "ADAPTER-E0301", "2 and 1 tokens"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_change_more_than_names_is_refused(tokenizer, tmp_path, case):
    old, new, code, words = REFUSED[case]
    if case == "a piece of words":
        content = json.loads((tokenizer / "tokenizer.json").read_text())
        first = content["model"]["merges"][0]
        old = ["".join(first if isinstance(first, list) else first.split(" "))]
    with pytest.raises(UserError) as caught:
        replace_tokens(tokenizer, tmp_path / "after", old, new)
    assert caught.value.problems[0].code == code
    assert words in str(caught.value)
    assert not list(tmp_path.glob("after*"))


def test_a_sentencepiece_tokenizer_alone_is_refused_by_name(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer/tokenizer.model").write_bytes(b"\n")
    with pytest.raises(UserError, match=r"tokenizer\.model, a sentencepiece model.*fast tokenizer"):
        replace_tokens(tmp_path / "tokenizer", tmp_path / "after", ["<s>"], ["<t>"])


def test_a_name_that_is_read_otherwise_is_refused(tmp_path):
    # A piece of WordPiece that is no special token is found only where a word begins.
    build_wordpiece(tmp_path / "tokenizer")
    vocabulary = load(tmp_path / "tokenizer").get_vocab()
    piece = next(token for token in vocabulary if token.startswith("##"))
    with pytest.raises(UserError, match="ADAPTER-E0305"):
        replace_tokens(tmp_path / "tokenizer", tmp_path / "after", [piece], ["zzz"])


def test_a_longer_token_that_holds_a_shorter_one_stays_whole():
    known = {"<s>": 1, "<s>x": 2, "</s>": 3}
    assert in_text("<s>x<s></s>", {"<s>": "<b>"}, known) == "<s>x<b></s>"


def test_the_given_folder_is_never_the_output(tokenizer):
    with pytest.raises(UserError, match="MERGE-E0105"):
        replace_tokens(tokenizer, tokenizer, ["<|im_end|>"], ["</s>"])
