"""Special tokens in the rows' texts: what the tokenizer adds itself is not there twice without a warning."""

import json

import pyarrow.parquet as pq
import pytest
from classifiers import build_bert
from conftest import build_tokenizer, write_jsonl
from encoder_decoders import build_bart, build_t5

from steps.artifacts import read_manifest
from steps.params.data import Preprocessing
from steps.params.settings import DataSettings, Resolved
from steps.prepare_data.step import prepare_data
from steps.prepare_data.write.special_tokens import added_at
from steps.prepare_data.write.templates import KEEP, load_tokenizer
from steps.sources import storage

CODES = ("DATA-W0830", "DATA-W0831")


def build_adding(folder, before=True, after=False):
    """A tokenizer that writes its end token before or behind each text, or both."""
    build_tokenizer(folder)
    file = folder / "tokenizer.json"
    made = json.loads(file.read_text())
    token = next(t for t in made["added_tokens"] if t["content"] == json.loads(
        (folder / "tokenizer_config.json").read_text())["eos_token"])  # fmt: skip
    one, text = {"SpecialToken": {"id": token["content"], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    other = {"Sequence": {"id": "B", "type_id": 1}}
    made["post_processor"] = {
        "type": "TemplateProcessing", "single": [one] * before + [text] + [one] * after,
        "pair": [one] * before + [text, other] + [one] * after,
        "special_tokens": {token["content"]: {"id": token["content"], "ids": [token["id"]],
                                              "tokens": [token["content"]]}},
    }  # fmt: skip
    file.write_text(json.dumps(made))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "bos_token": token["content"]}))
    return token["content"]


def prepared(folder, model, task, row, **settings):
    file = write_jsonl(folder / "a.jsonl", [row(n) for n in range(24)])
    source = Resolved(uri=str(file), digest=storage.digest_of("train_file_path", str(file)))
    given = DataSettings(task=task, train=source, max_length=32, rows_per_step=1,
                         preprocessing=Preprocessing(batch_size=7), **settings)  # fmt: skip
    prepare_data(given, model, folder / "data", folder / "data.html")
    told = [w for w in read_manifest(folder / "data").facts["warnings"] if w["code"] in CODES]
    return told, pq.read_table(folder / "data/tokens/train.parquet").to_pydict()


def odd(n, token, text):
    return f"{token}{text}" if n % 2 else text


ROWS = {
    "pretraining": ("pretraining", "causal_lm", lambda n, t: {"text": odd(n, t, f"say {n}")}, {}),
    "text": ("text_generation", "causal_lm", lambda n, t: {"text": odd(n, t, f"say {n}")}, {}),
    "prompt": ("text_generation", "causal_lm", lambda n, t: {"text": odd(n, t, f"say {n} "), "answer": "yes"},
               {"ground_truth_key": "answer"}),
    "summarization": ("summarization", "causal_lm",
                      lambda n, t: {"document": odd(n, t, f"a long text {n}"), "summary": "text"}, {}),
}  # fmt: skip


@pytest.mark.parametrize("kind", ROWS)
def test_a_begin_token_in_texts_to_which_the_tokenizer_adds_one_is_a_warning(tmp_path, kind):
    task, model, row, columns = ROWS[kind]
    token = build_adding(tmp_path / "model")
    told, _ = prepared(tmp_path, tmp_path / "model", task, lambda n: row(n, token), kind=model, columns=columns)
    assert sum(warning["count"] for warning in told) == 12
    assert all(f"special token {token}" in w["what"] and "writes before every text" in w["what"] for w in told)
    assert set(told[0]["rows"]) <= set(range(2, 25, 2))


def test_texts_without_special_tokens_are_not_warned_of(tmp_path):
    build_adding(tmp_path / "model")
    told, made = prepared(tmp_path, tmp_path / "model", "pretraining", lambda n: {"text": f"say {n}"}, kind="causal_lm")
    assert told == []
    tokenizer = load_tokenizer(tmp_path / "model", KEEP)
    assert all(ids.count(tokenizer.eos_token_id) == 2 for ids in made["input_ids"])  # begin and end


@pytest.mark.parametrize("written", [False, True])
def test_an_end_token_that_is_appended_and_written_by_the_tokenizer_is_a_warning(tmp_path, written):
    token = build_adding(tmp_path / "model", before=False, after=True)
    tokenizer = load_tokenizer(tmp_path / "model", KEEP)
    assert added_at(tokenizer) == ([], [token])
    text = lambda n: {"text": f"say {n}" + (token if written else "")}  # noqa: E731
    told, made = prepared(tmp_path, tmp_path / "model", "pretraining", text, kind="causal_lm")
    assert {ids.count(tokenizer.eos_token_id) for ids in made["input_ids"]} == {2}
    [warning] = told
    assert (warning["code"], warning["count"]) == ("DATA-W0831", 24)
    assert f"two {token}" in warning["what"]


def test_a_text_may_end_with_the_end_token_that_would_be_added(tmp_path):
    build_tokenizer(tmp_path / "model")
    tokenizer = load_tokenizer(tmp_path / "model", KEEP)
    row = lambda n: {"text": f"say {n}{tokenizer.eos_token}"}  # noqa: E731
    told, made = prepared(tmp_path, tmp_path / "model", "pretraining", row, kind="causal_lm")
    assert told == []
    assert {ids.count(tokenizer.eos_token_id) for ids in made["input_ids"]} == {1}


ENCODERS = {
    "masked": ("pretraining", "masked_lm", lambda n: {"text": odd(n, "[CLS] ", "the apple and a pear")  + f" {n}"},
               {"mlm_probability": 0.15}, "[CLS]"),
    "classification": ("text_classification", "sequence_classification",
                       lambda n: {"sentence1": odd(n, "[CLS] ", f"apple {n}"), "label": "ab"[n % 3 == 0]}, {}, "[CLS]"),
    "pairs": ("text_classification", "sequence_classification",
              lambda n: {"sentence1": f"apple {n}", "sentence2": odd(n, "[SEP]", "pear"), "label": "ab"[n % 3 == 0]},
              {"sentence2_key": "sentence2"}, "[SEP]"),
    "tags": ("token_classification", "token_classification",
             lambda n: {"tokens": ["apple", odd(n, "[SEP]", f"w{n}")], "tags": ["B-X", "O"]}, {}, "[SEP]"),
    "answers": ("question_answering", "question_answering",
                lambda n: {"question": odd(n, "[CLS]", f"apple {n}"), "context": "the apple",
                           "answers": {"text": ["apple"], "answer_start": [4]}}, {"doc_stride": 8}, "[CLS]"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_tokens_of_an_encoder_in_texts_are_a_warning(tmp_path, kind):
    task, model, row, columns, token = ENCODERS[kind]
    build_bert(tmp_path / "model")
    told, _ = prepared(tmp_path, tmp_path / "model", task, row, kind=model, columns=columns)
    assert sum(warning["count"] for warning in told) == 12
    assert all(f"special token {token}" in warning["what"] for warning in told)


@pytest.mark.parametrize(("build", "token"), [(build_t5, "</s>"), (build_bart, "<s>")])
def test_the_tokens_of_an_encoder_decoder_in_texts_and_answers_are_a_warning(tmp_path, build, token):
    build(tmp_path / "model")
    row = lambda n: {"document": f"the red fox and the boat {n}", "summary": odd(n, token, f"fox {n}")}  # noqa: E731
    told, _ = prepared(tmp_path, tmp_path / "model", "summarization", row, kind="seq2seq_lm", max_target_length=16)
    assert sum(warning["count"] for warning in told) == 12
