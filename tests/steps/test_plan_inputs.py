"""What the plan tells of a model's tokenizer, of small data, and of values that come back from KFP as floats."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from classifiers import label_rows
from conftest import chat_rows, write_jsonl
from planning import planned
from preferences import pair_rows, rated_rows

from steps.errors import UserError
from steps.plan.fitted import typed_like
from steps.plan.row_counts import most_rows


def codes(local_base: Path, rows: Path, pipeline: str = "chat_completion", **changes) -> list[str]:
    try:
        planned(local_base, rows, pipeline, **changes)
    except UserError as error:
        return [f"{problem.code} {problem.where}" for problem in error.problems]
    return []


# The tokenizer


def without_template(local_base: Path) -> Path:
    (local_base / "chat_template.jinja").unlink()
    return local_base


TEXTS = [{"text": f"Some text {number}"} for number in range(60)]
NO_TEMPLATE = ["DATA-E0801 chat_template"]


@pytest.mark.parametrize(
    ("pipeline", "rows", "more", "expected"),
    [
        ("chat_completion", chat_rows(60), {}, NO_TEMPLATE),
        ("preference", pair_rows(60), {}, NO_TEMPLATE),
        ("preference", rated_rows(60), {"method": "kto", "per_device_train_batch_size": 2}, NO_TEMPLATE),
        ("preference", pair_rows(60), {"method": "orpo"}, NO_TEMPLATE),
        ("preference", pair_rows(60, chat=False), {}, []),
        ("preference", rated_rows(60, chat=False), {"method": "kto", "per_device_train_batch_size": 2}, []),
        ("text_generation", TEXTS, {}, []),
        ("pretraining", TEXTS, {}, []),
        ("chat_completion", chat_rows(60), {"chat_template": "chat-ml"}, []),
        ("text_classification", label_rows(60), {"sentence1_key": "text", "label_key": "kind"}, []),
    ],
)
def test_conversations_need_a_chat_template(local_base, tmp_path, pipeline, rows, more, expected):
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    assert codes(without_template(local_base), file, pipeline, **more) == expected


def test_an_empty_template_is_none_and_one_in_the_configuration_is_one(local_base, tmp_path):
    file = write_jsonl(tmp_path / "rows.jsonl", chat_rows(60))
    (local_base / "chat_template.jinja").write_text(" \n")
    assert codes(local_base, file) == NO_TEMPLATE
    config = json.loads((without_template(local_base) / "tokenizer_config.json").read_text())
    (local_base / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "{{ messages }}"}))
    assert codes(local_base, file) == []


SENTENCEPIECE = b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02"


@pytest.mark.parametrize(
    ("name", "content", "package"),
    [
        ("tokenizer.model", SENTENCEPIECE, "sentencepiece"),
        ("spiece.model", SENTENCEPIECE, "sentencepiece"),
        ("sentencepiece.bpe.model", SENTENCEPIECE, "sentencepiece"),
        ("tokenizer.model", b"IQ== 0\nIg== 1\n", "tiktoken"),
    ],
)
def test_a_tokenizer_whose_package_is_missing_is_told(local_base, tmp_path, monkeypatch, name, content, package):
    from steps.plan import tokenizer

    monkeypatch.setattr(tokenizer, "_is_there", lambda module: module == "google.protobuf")
    file = write_jsonl(tmp_path / "rows.jsonl", chat_rows(60))
    (local_base / name).write_bytes(content)
    assert codes(local_base, file) == []  # tokenizer.json is used
    (local_base / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    with pytest.raises(UserError) as caught:
        planned(local_base, file)
    told = str(caught.value)
    assert told.startswith(
        f"PLAN-E0362 pytorch_model_path: found the tokenizer file {name}, but not the package {package}"
    )
    assert f"pip install {package} where the steps run, or write tokenizer.json" in told
    monkeypatch.setattr(tokenizer, "_is_there", lambda module: True)
    assert codes(local_base, file) == []


def test_a_class_that_always_reads_its_sentencepiece_model_needs_the_package(local_base, tmp_path, monkeypatch):
    from steps.plan import tokenizer

    monkeypatch.setattr(tokenizer, "_is_there", lambda module: False)
    config = json.loads((local_base / "tokenizer_config.json").read_text())
    (local_base / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": "MarianTokenizer"}))
    (local_base / "source.spm").write_bytes(SENTENCEPIECE)
    file = write_jsonl(tmp_path / "rows.jsonl", chat_rows(60))
    assert codes(local_base, file) == ["PLAN-E0362 pytorch_model_path"]


# Few rows


@pytest.mark.parametrize(("count", "least", "enough"), [(1, 1, False), (2, 1, False), (3, 1, True), (11, 10, False)])
def test_too_few_rows_are_told_before_anything_runs(local_base, tmp_path, count, least, enough):
    file = write_jsonl(tmp_path / "rows.jsonl", chat_rows(count))
    assert codes(local_base, file, min_train_rows=least) == ([] if enough else [f"PLAN-E0361 {file}"])


def test_a_row_is_enough_where_the_held_out_rows_are_given(local_base, tmp_path):
    file = write_jsonl(tmp_path / "rows.jsonl", chat_rows(1))
    others = {"validation_file_path": str(file), "test_file_path": str(file)}
    assert codes(local_base, file, min_train_rows=1, **others) == []
    assert codes(local_base, file, **others) == [f"PLAN-E0361 {file}"]


def test_each_pair_is_two_rated_rows(local_base, tmp_path):
    file = write_jsonl(tmp_path / "rows.jsonl", pair_rows(9))
    more = {"method": "kto", "kto_rows": "pairs", "per_device_train_batch_size": 2}
    assert codes(local_base, file, "preference", **more) == []
    assert codes(local_base, file, "preference", **more, min_train_rows=20) == [f"PLAN-E0361 {file}"]


def test_rows_are_counted_by_what_each_format_can_hold(tmp_path):
    rows = [{"text": f"row {number}"} for number in range(5)]
    files = {
        "a.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "b.json": json.dumps(rows).encode(),
        "c.csv": b"text\n" + b"".join(f"row {number}\n".encode() for number in range(5)),
        "d.json": json.dumps({"data": rows}).encode(),
        "e.jsonl": json.dumps(rows).encode(),
        "f.json": b"{",
        "g.parquet": b"PAR1",
        "h.txt": b"one\ntwo\n",
    }
    files["i.jsonl.gz"] = gzip.compress(files["a.jsonl"])
    files["j.jsonl.gz"] = files["i.jsonl.gz"][:-9]
    files["l.jsonl.gz"] = files["i.jsonl.gz"][:10] + b"\xff" * 20
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "k.parquet")
    counted = {name[0]: most_rows(str(tmp_path / name)) for name in [*files, "k.parquet"]}
    known = {"a": 5, "b": 5, "c": 5, "i": 5, "k": 5}
    assert counted == {**dict.fromkeys("defghijl"), **known}
    assert most_rows(str(tmp_path / "c.csv"), header=False) == 6
    assert most_rows("s3://bucket/rows.jsonl") is None


# Numbers of model_args


def test_whole_numbers_get_the_type_that_the_configuration_has(local_base, tmp_path):
    file = write_jsonl(tmp_path / "rows.jsonl", chat_rows(60))
    args = {"num_hidden_layers": 1.0, "rms_norm_eps": 1, "attention_dropout": 0.0, "use_sliding_window": 4.0}
    config = json.loads((local_base / "config.json").read_text())
    (local_base / "config.json").write_text(json.dumps({**config, "use_sliding_window": None}))
    found = planned(local_base, file, model_args=args).parameters.model_args
    assert repr(found) == repr(
        {"num_hidden_layers": 1, "rms_norm_eps": 1.0, "attention_dropout": 0.0, "use_sliding_window": 4}
    )


@pytest.mark.parametrize(
    ("value", "pattern", "expected"),
    [
        (4.0, 2, 4),
        (4.0, 0.5, 4.0),
        (4, 0.5, 4.0),
        (4.5, 2, 4.5),
        (4.0, None, 4),
        (True, 0.5, True),
        ({"a": 8, "b": 8192.0, "c": "llama3"}, {"a": 2.0, "b": 1}, {"a": 8.0, "b": 8192, "c": "llama3"}),
        ([1.0, 2.0], [3, 4], [1, 2]),
        ([1.0, 2.0], [0.5], [1.0, 2.0]),
        ({"deep": {"list": [{"n": 3.0}]}}, {}, {"deep": {"list": [{"n": 3}]}}),
    ],
)  # fmt: skip
def test_types_follow_the_pattern_and_else_are_whole(value, pattern, expected):
    assert repr(typed_like(value, pattern)) == repr(expected)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"num_hidden_layers": 4.5}, "model_args.num_hidden_layers: found 4.5; expected a whole number, as in config"),
        ({"num_hidden_layers": "4"}, "model_args.num_hidden_layers: found '4'; expected a whole number"),
        ({"num_hidden_layers": True}, "model_args.num_hidden_layers: found True; expected a whole number"),
        ({"num_hidden_layers": [4]}, "model_args.num_hidden_layers: found [4]; expected a whole number"),
        ({"rms_norm_eps": "1e-5"}, "model_args.rms_norm_eps: found '1e-5'; expected a number"),
        ({"attention_bias": "yes"}, "model_args.attention_bias: found 'yes'; expected true or false"),
        ({"attention_bias": 1}, "model_args.attention_bias: found 1; expected true or false"),
        ({"hidden_act": 3}, "model_args.hidden_act: found 3; expected a text"),
        ({"architectures": "Llama"}, "model_args.architectures: found 'Llama'; expected a list"),
        ({"rope_parameters": {"rope_theta": "big"}}, "model_args.rope_parameters.rope_theta: found 'big'; expected"),
        ({"rope_parameters": 3}, "model_args.rope_parameters: found 3; expected an object"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_told_before_the_model_is_built(local_base, tmp_path, args, words):
    file = write_jsonl(tmp_path / "rows.jsonl", chat_rows(60))
    config = json.loads((local_base / "config.json").read_text())
    config |= {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}
    (local_base / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as caught:
        planned(local_base, file, model_args=args)
    assert str(caught.value).startswith(f"PLAN-E0322 {words}")


def test_values_of_the_same_type_and_unset_ones_are_accepted(local_base, tmp_path):
    file = write_jsonl(tmp_path / "rows.jsonl", chat_rows(60))
    args = {
        "num_hidden_layers": 1,
        "rms_norm_eps": 1,
        "attention_bias": True,
        "eos_token_id": [1, 2],
        "pad_token_id": None,
    }
    assert codes(local_base, file, model_args=args) == []
