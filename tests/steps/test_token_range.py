"""Tokens for which the model has no embedding are refused before the training; other sizes are fine."""

import json
from pathlib import Path

import pytest
from classifiers import build_bert
from conftest import build_model, build_tokenizer, chat_rows, write_jsonl
from encoder_decoders import build_t5
from preferences import pair_rows

from steps.errors import UserError
from steps.params.settings import DataSettings, Resolved
from steps.plan.deciding import decide
from steps.prepare_data.step import prepare_data
from steps.sources.storage import digest_of

ROWS = 355  # the vocabulary of the tiny model
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def changed(folder: Path, name: str, **content: object) -> None:
    file = folder / name
    told = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**told, **content}))


def with_added(folder: Path, token: str, number: int) -> None:
    told = json.loads((folder / "tokenizer.json").read_text())
    changed(folder, "tokenizer.json", added_tokens=[*told["added_tokens"], {"id": number, "content": token, **FLAGS}])


def pad(folder: Path) -> None:
    with_added(folder, "[PAD]", ROWS)
    changed(folder, "tokenizer_config.json", pad_token="[PAD]")


def pad_beside(folder: Path) -> None:
    """A token that only tokenizer_config.json names is appended to the vocabulary."""
    changed(folder, "tokenizer_config.json", pad_token="[PAD]")


def role(name: str):
    def change(folder: Path) -> None:
        with_added(folder, "[X]", ROWS)
        changed(folder, "tokenizer_config.json", **{name: "[X]"})

    return change


def named(file: str, **told: object):
    return lambda folder: changed(folder, file, **told)


BEYOND = {
    "pad": (pad, "MODEL-E0133", "pad_token"),
    "pad in tokenizer_config.json alone": (pad_beside, "MODEL-E0133", "pad_token"),
    "bos": (role("bos_token"), "MODEL-E0133", "bos_token"),
    "eos": (role("eos_token"), "MODEL-E0133", "eos_token"),
    "unk": (role("unk_token"), "MODEL-E0133", "unk_token"),
    "pad of config.json": (named("config.json", pad_token_id=ROWS), "MODEL-E0134", "config.json pad_token_id"),
    "eos of config.json": (named("config.json", eos_token_id=[2, ROWS]), "MODEL-E0134", "config.json eos_token_id"),
    "pad of generation_config.json": (
        named("generation_config.json", pad_token_id=9999), "MODEL-E0134", "generation_config.json pad_token_id"),
    "start of generation_config.json": (
        named("generation_config.json", decoder_start_token_id=ROWS), "MODEL-E0134", "decoder_start_token_id"),
}  # fmt: skip
FINE = {
    "nothing": lambda folder: None,
    "a token without a role that no row has": lambda folder: with_added(folder, "<image>", ROWS),
    "more embeddings than tokens": lambda folder: build_model(folder, vocab_size=ROWS + 128),
    "a mask token of a causal model": role("mask_token"),
    "a padding of -1": named("generation_config.json", pad_token_id=-1),
    "the last token": named("config.json", pad_token_id=ROWS - 1),
}


def planned(folder: Path, pipeline: str = "chat_completion", rows: list[dict] | None = None) -> None:
    file = write_jsonl(folder.parent / "rows.jsonl", rows or chat_rows(60))
    given = {"pytorch_model_path": str(folder), "train_file_path": str(file), "number_of_gpu_to_use_finetuning": 0,
             "register_tuned_model": False}  # fmt: skip
    decide(pipeline, given)


@pytest.mark.parametrize("name", BEYOND)
def test_the_plan_names_the_token_beyond_the_vocabulary(tmp_path, name):
    change, code, where = BEYOND[name]
    build_model(tmp_path / "model")
    change(tmp_path / "model")
    for pipeline, rows in (("chat_completion", None), ("preference", pair_rows(60))):
        with pytest.raises(UserError) as refused:
            planned(tmp_path / "model", pipeline, rows)
        [problem] = refused.value.problems
        assert problem.code == code
        assert where in problem.where
        assert str(ROWS) in problem.expected


@pytest.mark.parametrize("name", FINE)
def test_other_sizes_are_fine(tmp_path, name):
    build_model(tmp_path / "model")
    FINE[name](tmp_path / "model")
    planned(tmp_path / "model")


def test_encoders_and_encoder_decoders_are_looked_at_too(tmp_path):
    build_bert(tmp_path / "bert")
    rows = json.loads((tmp_path / "bert/config.json").read_text())["vocab_size"]
    with_added(tmp_path / "bert", "[X]", rows)
    changed(tmp_path / "bert", "tokenizer_config.json", mask_token="[X]")
    with pytest.raises(UserError, match="MODEL-E0133"):
        planned(tmp_path / "bert", "text_classification", [{"text": f"{n}", "label": n % 2} for n in range(60)])
    build_t5(tmp_path / "t5")
    changed(tmp_path / "t5", "config.json", decoder_start_token_id=4000)
    with pytest.raises(UserError, match="MODEL-E0134"):
        planned(tmp_path / "t5", "summarization", [{"document": f"a {n}", "summary": "b"} for n in range(60)])


def prepared(folder: Path, model: Path, rows: list[dict], **given: object) -> None:
    train = write_jsonl(folder / "train.jsonl", rows)
    source = Resolved(uri=str(train), digest=digest_of("train", str(train)))
    settings = DataSettings(task="chat_completion", max_length=128, train=source, **given)
    prepare_data(settings, model, folder / "data", folder / "report.html")


def test_rows_with_a_token_beyond_the_vocabulary_are_refused_when_they_are_made(tmp_path):
    build_model(tmp_path / "model")
    with_added(tmp_path / "model", "<image>", ROWS)
    rows = chat_rows(60)
    rows[7]["messages"][0]["content"] += "<image>"
    with pytest.raises(UserError) as refused:
        prepared(tmp_path, tmp_path / "model", rows)
    [problem] = refused.value.problems
    assert problem.code == "DATA-E0824"
    assert "<image> with the number 355" in problem.found
    prepared(tmp_path, tmp_path / "model", chat_rows(60))


def test_a_role_beyond_the_vocabulary_is_refused_without_a_plan(tmp_path):
    build_tokenizer(tmp_path / "tokenizer")
    changed(tmp_path / "tokenizer", "config.json", vocab_size=300, model_type="llama")
    changed(tmp_path / "tokenizer", "tokenizer_config.json", pad_token="[PAD]")
    with pytest.raises(UserError, match="DATA-E0823"):
        prepared(tmp_path, tmp_path / "tokenizer", chat_rows(60))
