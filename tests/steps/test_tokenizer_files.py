"""Tokens added to a tokenizer's files, compared with transformers, which loads them."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from steps.models.tokenizer_files import TokenizerFiles

NEW = ["<|call|>", "<|result|>", "<|end|>"]
TEXT = "Count <|call|>to ten<|result|>: 1 2 3<|end|> <|im_end|>"


def read(folder: Path) -> TokenizerFiles:
    return TokenizerFiles.read([file.name for file in folder.iterdir()], lambda name: (folder / name).read_bytes())


def extended(folder: Path, target: Path, tokens: list[str]) -> Path:
    """Copy a tokenizer and write the files that the new tokens change."""
    shutil.copytree(folder, target)
    before = read(folder)
    for name, content in before.with_tokens(tokens).changed(before).items():
        (target / name).write_bytes(content)
    return target


def of_an_older_version(folder: Path) -> None:
    """Tokens told by tokenizer_config.json alone, as transformers 4 saved them."""
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    whole = json.loads((folder / "tokenizer.json").read_text())
    config["added_tokens_decoder"] = {
        str(entry["id"]): {key: value for key, value in entry.items() if key != "id"} for entry in whole["added_tokens"]
    }
    config["added_tokens_decoder"]["384"] = {
        "content": "<|tool|>", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False,
        "special": False,
    }  # fmt: skip
    config["additional_special_tokens"] = ["<|im_start|>"]
    file.write_text(json.dumps(config))


def with_a_pad_token_that_only_its_role_tells(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "pad_token": "<|pad|>"}))


def as_llama(folder: Path) -> None:
    """Build the class that makes its own tokenizer from the vocabulary in tokenizer.json."""
    from transformers import LlamaTokenizer

    tokenizer = LlamaTokenizer(vocab={"<unk>": 0, "<s>": 1, "</s>": 2, **{chr(n): n for n in range(33, 127)}})
    shutil.rmtree(folder)
    tokenizer.save_pretrained(folder)


def as_qwen(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tokenizer_class": "Qwen2Tokenizer"}))


def as_gpt2(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tokenizer_class": "GPT2Tokenizer"}))


KINDS = [
    lambda folder: None, of_an_older_version, with_a_pad_token_that_only_its_role_tells, as_llama, as_qwen, as_gpt2,
]  # fmt: skip


@pytest.mark.parametrize("change", KINDS, ids=lambda change: change.__name__.strip("<>"))
def test_new_tokens_get_the_numbers_that_transformers_gives_them(tiny_model, tmp_path, change):
    source = tmp_path / "source"
    shutil.copytree(tiny_model, source, ignore=shutil.ignore_patterns("*.safetensors"))
    change(source)
    theirs = AutoTokenizer.from_pretrained(source)
    added = theirs.add_special_tokens({"extra_special_tokens": NEW}, replace_extra_special_tokens=False)
    ours = AutoTokenizer.from_pretrained(extended(source, tmp_path / "extended", NEW))
    assert added == len(NEW)
    assert ours.get_vocab() == theirs.get_vocab()
    assert read(tmp_path / "extended").numbers() == theirs.get_vocab()
    assert ours(TEXT).input_ids == theirs(TEXT).input_ids
    assert ours.decode(ours(TEXT).input_ids, skip_special_tokens=True) == theirs.decode(
        theirs(TEXT).input_ids, skip_special_tokens=True
    )


def test_nothing_but_the_new_tokens_changes(tiny_model, tmp_path):
    extended(tiny_model, tmp_path / "extended", NEW)
    before, after = (
        json.loads((folder / "tokenizer.json").read_text()) for folder in (tiny_model, tmp_path / "extended")
    )
    assert [token["content"] for token in after["added_tokens"][len(before["added_tokens"]) :]] == NEW
    after["added_tokens"] = before["added_tokens"]
    assert after == before
    assert AutoTokenizer.from_pretrained(tmp_path / "extended").chat_template


def test_letters_that_become_one_token_keep_their_number(tiny_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    known = tokenizer.convert_ids_to_tokens(300)
    assert read(tiny_model).divided([known, "<|im_end|>", "<|new|>"]) == [known, "<|new|>"]
    ours = AutoTokenizer.from_pretrained(extended(tiny_model, tmp_path / "extended", [known]))
    assert ours.convert_tokens_to_ids(known) == 300
    assert len(ours) == len(tokenizer)
    assert 300 in ours.added_tokens_decoder


def test_a_token_gets_a_role(tiny_model, tmp_path):
    before = read(tiny_model)
    shutil.copytree(tiny_model, tmp_path / "other")
    for name, content in before.with_role("pad_token", "<|im_start|>").changed(before).items():
        (tmp_path / "other" / name).write_bytes(content)
    assert AutoTokenizer.from_pretrained(tmp_path / "other").pad_token == "<|im_start|>"
    assert before.named("eos_token") == "<|im_end|>"
    assert before.named("bos_token") == ""


def test_a_broken_file_is_named(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "broken")
    (tmp_path / "broken/tokenizer.json").write_text('{"model": {"type": "none"}}')
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        read(tmp_path / "broken").numbers()
    shutil.copy(tiny_model / "tokenizer.json", tmp_path / "broken")
    (tmp_path / "broken/tokenizer_config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json"):
        read(tmp_path / "broken")
