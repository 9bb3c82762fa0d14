"""Damaged model folders: what the plan says of each, before anything is loaded."""

import json
import re
import shutil
import struct

import pytest
from conftest import chat_rows, write_jsonl

from steps.errors import UserError
from steps.plan.deciding import decide


@pytest.fixture
def planned(tiny_model, tmp_path, monkeypatch):
    """Return a function that plans with a copy of a model after a change of its folder."""
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    rows = write_jsonl(tmp_path / "rows.jsonl", chat_rows(60))
    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)

    def plan(change, **parameters):
        change(copy)
        return decide("chat_completion", {"pytorch_model_path": str(copy), "train_file_path": str(rows),
                                          "number_of_gpu_to_use_finetuning": 0, **parameters})  # fmt: skip

    return plan


def with_values(**values):
    def change(folder):
        config = json.loads((folder / "config.json").read_text()) | values
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "left out"}))

    return change


def without_tensors(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_position_embeddings": "many"}, "max_position_embeddings: found 'many'; expected a whole number"),
        ({"max_position_embeddings": -1}, "max_position_embeddings: found -1; expected a whole number of at least 0"),
        ({"max_position_embeddings": [512]}, "max_position_embeddings: found "),
        ({"hidden_size": "64"}, "hidden_size: found '64'"),
        ({"hidden_size": 64.5}, "hidden_size: found 64.5"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: found 0; expected a whole number of at least 1"),
        ({"vocab_size": True}, "vocab_size: found True"),
        ({"model_type": "left out"}, "model_type: found nothing; expected the name of an architecture"),
        ({"model_type": 3}, "model_type: found 3"),
        ({"text_config": "x"}, "text_config: found 'x'; expected an object"),
        ({"text_config": {"vocab_size": "x"}}, "text_config: vocab_size: found 'x'"),
        ({"rope_scaling": [1]}, "rope_scaling: found "),
    ],
)
def test_values_that_no_model_has_are_told(planned, values, words):
    with pytest.raises(UserError, match=f"MODEL-E0116 pytorch_model_path: config.json: {re.escape(words)}"):
        planned(with_values(**values))


def test_the_memory_of_16_bit_weights_is_estimated_by_their_headers_where_the_configuration_names_no_type(planned):
    named = planned(with_values(dtype="float32", torch_dtype="float32")).memory.needed

    def halved(folder):
        with_values(dtype="left out", torch_dtype="left out")(folder)
        file = folder / "model.safetensors"
        content = file.read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        header, position = json.loads(content[8 : 8 + length]), 0
        for entry in sorted((e for n, e in header.items() if n != "__metadata__"), key=lambda e: e["data_offsets"]):
            size = (entry["data_offsets"][1] - entry["data_offsets"][0]) // 2
            entry.update(dtype="BF16", data_offsets=[position, position + size])
            position += size
        text = json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(position))

    assert planned(halved).memory.needed == named


def with_content(name, content):
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_content("chat_template.jinja", b"{% for m in messages %}{{ m"), "DATA-E0806 chat_template: .*model's"),
        (with_content("chat_template.jinja", b"{"), ""),  # a text, which Jinja reads
        (with_content("chat_template.jinja", b"a\n{% nope %}"), "DATA-E0806 chat_template: .*:2: .*nope.*chat-ml"),
        (
            with_content("tokenizer.json", b'{"model": {"a'),
            "MODEL-E0117 pytorch_model_path: tokenizer.json",
        ),
        (with_content("tokenizer.json", b""), "MODEL-E0117"),
        (with_content("tokenizer.json", b"[1]"), "MODEL-E0117 .*found "),
        (with_content("tokenizer.json", b"{}"), "MODEL-E0117 .*an object without model"),
        (with_content("tokenizer.json", b"\xff\xfe{}"), "MODEL-E0117"),
    ],
)
def test_damaged_templates_and_tokenizers_are_told(planned, change, words):
    if not words:
        planned(change)
        return
    with pytest.raises(UserError) as told:
        planned(change)
    assert any(re.search(words, str(problem)) for problem in told.value.problems), str(told.value)


def test_a_template_of_ours_replaces_a_damaged_one(planned):
    planned(with_content("chat_template.jinja", b"{% nope %}"), chat_template="poro")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"hidden_size": 7}, "PLAN-E0323 model_args.hidden_size: found 7; expected .*as in config.json"),
        ({"vocab_size": 10}, "PLAN-E0323 model_args.vocab_size"),
        ({"num_hidden_layers": None}, "PLAN-E0323 model_args.num_hidden_layers: found None"),
        ({"model_type": "gpt2"}, "PLAN-E0323 model_args.model_type: found 'gpt2'"),
        ({"hidden_act": "nope"}, "PLAN-E0323 model_args.hidden_act"),
        ({"attention_dropout": 5}, "PLAN-E0324 model_args.attention_dropout: found 5.0; expected a number from 0"),
        ({"attention_dropout": float("nan")}, "PLAN-E0324 model_args.attention_dropout: found nan"),
    ],
)
def test_model_args_that_the_weights_do_not_fit_are_told(planned, given, words):
    with pytest.raises(UserError, match=words):
        planned(lambda folder: None, model_args=given)


@pytest.mark.parametrize("name", ["max_steps", "lora_r", "logging_steps", "evaluation_max_rows"])
def test_counts_beyond_what_the_libraries_hold_are_told(planned, name):
    with pytest.raises(UserError, match=f"PARAM-E0129 {name}: found 99999999999999999999; expected a number below"):
        planned(lambda folder: None, **{name: 99999999999999999999})


def test_a_folder_with_more_files_than_any_data_set_has_is_told(planned, tmp_path, monkeypatch):
    monkeypatch.setattr("steps.sources.storage.MOST_FILES", 3)
    (tmp_path / "many/inner").mkdir(parents=True)
    for number in range(4):
        write_jsonl(tmp_path / f"many/inner/{number}.jsonl", chat_rows(2))
    with pytest.raises(UserError, match=r"URI-E0209 train_file_path: found more than 3 files below .*name that folder"):
        planned(lambda folder: None, train_file_path=str(tmp_path / "many"))
