"""Models that were written to stop a run: the plan refuses them, and import_model alone.

The model here has no torch behind it, so that each case takes some milliseconds; a case that takes longer than ten
seconds fails (`hostile_trials.py`).
"""

import json
import math
import shutil
from pathlib import Path

import pytest
from conftest import chat_rows, write_jsonl
from hostile_files import (
    CONFIG,
    END,
    TOKENIZER,
    Act,
    both,
    config,
    fifo,
    folder_for,
    header,
    huge,
    index,
    link,
    not_utf8,
    put,
    split_by,
    tensor,
    tokens,
    told,
    weights,
)
from hostile_trials import digest_of, imported, planned

from steps.errors import SecurityRefusal, StepError, UserError
from steps.import_model.step import import_model
from steps.params.settings import AdapterFound, ImportSettings, Resolved
from steps.sources.plain_yaml import plain_yaml

EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
PADDING = {"direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}
DEEP = '{"a":' * 20_000 + "1" + "}" * 20_000


@pytest.fixture
def model(good_model) -> Path:
    return good_model


@pytest.fixture
def adapter(good_adapter) -> Path:
    return good_adapter


MODELS: dict[str, tuple[Act, type[StepError], str]] = {
    "a pipe": (fifo("config.json"), UserError, "URI-E0210"),
    "a pipe that is not imported": (fifo("notes.txt"), UserError, "URI-E0210"),
    "a pipe for weights": (fifo("model.safetensors"), UserError, "URI-E0210"),
    "an endless device": (link("LICENSE", "/dev/zero"), UserError, "URI-E0210"),
    "an endless tokenizer": (link("tokenizer.json", "/dev/zero"), UserError, "URI-E0210"),
    "a terminal": (link("NOTICE", "/dev/tty"), UserError, "URI-E0210"),
    "a link to itself": (link("config.json", "config.json"), UserError, "itself"),
    "a link to nothing": (link("README.md", "nowhere"), UserError, "URI-E0201"),
    "a link out": (link("README.md", "/etc/passwd"), SecurityRefusal, "MODEL-E0303"),
    "a link to a folder": (link("more", "/etc"), SecurityRefusal, "MODEL-E0303"),
    "a link to the folder above": (link("more", ".."), SecurityRefusal, "MODEL-E0303"),
    "a name that is not UTF-8": (not_utf8, UserError, "URI-E0211"),
    "a huge configuration": (huge("config.json"), UserError, "MODEL-E0118"),
    "a huge tokenizer": (huge("tokenizer.json"), UserError, "MODEL-E0118"),
    "a huge license": (huge("LICENSE"), UserError, "MODEL-E0118"),
    "a huge template": (huge("chat_template.jinja"), UserError, "MODEL-E0118"),
    "a deep configuration": (put("config.json", DEEP), UserError, "nested too deeply"),
    "a configuration 101 deep": (config(x=json.loads("[" * 101 + "]" * 101)), UserError, "nested too deeply"),
    "a deep tokenizer": (put("tokenizer.json", DEEP), UserError, "MODEL-E0117"),
    "a deep tokenizer_config": (put("tokenizer_config.json", DEEP), UserError, "MODEL-E0109"),
    "deep special tokens": (put("special_tokens_map.json", DEEP), UserError, "MODEL-E0117"),
    "a deep index": (index(DEEP), UserError, "MODEL-E0109"),
    "a deep header": (weights(header(DEEP.encode())), UserError, "MODEL-E0111"),
    "auto_map as text": (config(auto_map="evil.Model"), SecurityRefusal, r"evil\.py"),
    "auto_map as a list": (config(auto_map=[None, "evil.Model"]), SecurityRefusal, r"evil\.py"),
    "auto_map as a number": (config(auto_map=1), SecurityRefusal, "MODEL-E0302"),
    "auto_map inside": (config(text_config={"auto_map": {"A": "evil.M"}}), SecurityRefusal, r"evil\.py"),
    "auto_map of the tokenizer": (told(auto_map=["evil.T", None]), SecurityRefusal, r"evil\.py"),
    "auto_map for generation": (put("generation_config.json", {"auto_map": {"x": "y.z"}}), SecurityRefusal, "E0302"),
    "a kernel": (config(attn_implementation="evil/kernel"), SecurityRefusal, "MODEL-E0305"),
    "a kernel by another key": (config(_attn_implementation_internal="a/b:c"), SecurityRefusal, "MODEL-E0305"),
    "a kernel behind paged": (config(_attn_implementation="paged|evil/kernel"), SecurityRefusal, "MODEL-E0305"),
    "a kernel for one part": (config(attn_implementation={"": "sdpa", "x": "a/b"}), SecurityRefusal, "MODEL-E0305"),
    "a kernel inside": (config(vision_config={"experts_implementation": "a/b"}), SecurityRefusal, "MODEL-E0305"),
    "kernels in general": (config(use_kernels=True), SecurityRefusal, "MODEL-E0305"),
    "a number of 300 digits": (config(vocab_size=10**300), UserError, "vocab_size"),
    "a number of 5,000 digits": (
        put("config.json", json.dumps(CONFIG).replace('"vocab_size": 4', '"vocab_size": ' + "9" * 5000)),
        UserError,
        "MODEL-E0109",
    ),
    "a name of a hundred thousand letters": (config(model_type="x" * 100_000), UserError, "model_type"),
    "a type of numbers that is a function": (config(dtype="load"), UserError, "dtype"),
    "numbers that are none": (config(initializer_range=math.nan), UserError, "initializer_range"),
    "a switch of a list": (config(tie_word_embeddings=[1]), UserError, "tie_word_embeddings"),
    "a list of hidden sizes": (config(hidden_size=[8]), UserError, "hidden_size"),
    "texts for each layer": (config(intermediate_size=["x"]), UserError, "intermediate_size"),
    "heads that cannot share": (config(num_attention_heads=2, num_key_value_heads=3), UserError, "a divisor of"),
    "a head of a text": (config(head_dim="x"), UserError, "head_dim"),
    "a padding of a text": (config(model_type="roberta", pad_token_id="x"), UserError, "pad_token_id"),
    "a stretching by infinity": (config(rope_scaling={"type": "linear", "factor": math.inf}), UserError, "factor"),
    "a stretching of a list": (config(rope_scaling={"rope_type": ["yarn"], "factor": 2.0}), UserError, "rope_type"),
    "a quantisation of a text": (config(quantization_config="x"), UserError, "quantization_config"),
    "architectures by number": (config(architectures=3), UserError, "architectures"),
    "architectures by name": (config(architectures={"a": 1}), UserError, "architectures"),
    "an index without a map": (index({}), UserError, "MODEL-E0114"),
    "an index of a list": (index({"weight_map": ["a"]}), UserError, "MODEL-E0114"),
    "an index that leads out": (index({"weight_map": {"a": "../x.safetensors"}}), SecurityRefusal, "MODEL-E0304"),
    "an index of a tensor that is not there": (
        index({"weight_map": {"nope": "model-00001-of-00001.safetensors"}}), UserError, "MODEL-E0115.*nope"
    ),
    "settings that are a folder": (folder_for("tokenizer_config.json"), UserError, "E0128.*tokenizer_config.json"),
    "generation that is a folder": (folder_for("generation_config.json"), UserError, "MODEL-E0128"),
    "a header of a list": (weights(header([1])), UserError, "MODEL-E0111"),
    "a type of a list": (weights(tensor(dtype=["F32"])), UserError, "MODEL-E0111"),
    "a negative shape": (weights(tensor(shape=[-1, -1])), UserError, "MODEL-E0111"),
    "a tensor twice": (weights(header(b'{"a": {}, "a": %s}' % json.dumps(EMPTY).encode())), UserError, "MODEL-E0111"),
    "metadata of a text": (weights(header({"__metadata__": ""})), UserError, "MODEL-E0111"),
    "a header that is not UTF-8": (weights(header('{"a": {}}'.encode("utf-16"))), UserError, "MODEL-E0111"),
    "a name that is no text": (weights(header({"\ud800": EMPTY})), UserError, "MODEL-E0111"),
    "metadata of a list": (weights(header({"__metadata__": ["pt"]})), UserError, "MODEL-E0111"),
    "metadata of numbers": (weights(header({"__metadata__": {"step": 3}})), UserError, "MODEL-E0111"),
    "an absurd shape": (weights(tensor(dtype="I64", shape=[10**18, 10**18])), UserError, "MODEL-E0111"),
    "an absurd empty shape": (weights(tensor(shape=[10**30, 0])), UserError, "MODEL-E0111"),
    "offsets of texts": (weights(tensor(data_offsets="04")), UserError, "MODEL-E0111"),
    "a header of 20 MB": (weights(header(b"{" + b" " * 20_000_000 + b"}")), UserError, "a header of 20,000,002 bytes"),
    "a tokenizer that is cut": (put("tokenizer.json", json.dumps(TOKENIZER)[:99]), UserError, "MODEL-E0117"),
    "a tokenizer of a list": (put("tokenizer.json", []), UserError, "MODEL-E0117"),
    "a vocabulary of a number": (tokens(model={"vocab": 3}), UserError, "MODEL-E0117"),
    "a token with a text": (tokens(model={"vocab": {"a": "x"}}), UserError, "MODEL-E0117"),
    "a token of 30 digits": (tokens(model={"vocab": {"a": 10**30}}), UserError, "MODEL-E0117"),
    "added tokens of texts": (tokens(added_tokens=["x"]), UserError, "MODEL-E0117"),
    "added tokens without ids": (tokens(added_tokens=[{"content": "x"}]), UserError, "MODEL-E0117"),
    "added_tokens.json of texts": (put("added_tokens.json", {"a": "b"}), UserError, "MODEL-E0117"),
    "a class of a list": (told(tokenizer_class=["x"]), UserError, "tokenizer_class"),
    "a length of a text": (told(model_max_length="x"), UserError, "model_max_length"),
    "a template that leads out": (told(chat_template=[{"name": "../x", "template": "a"}]), UserError, "chat_template"),
    "a template by name that leads out": (told(chat_template={"../../x": "a"}), UserError, "chat_template"),
    "a token of a billion": (told(added_tokens_decoder={"4000000": {"content": "a"}}), UserError, "added_tok"),
    "a template of numbers": (told(chat_template={"default": 3}), UserError, "chat_template"),
    "added tokens of another kind": (told(added_tokens_decoder={"x": {"content": "y"}}), UserError, "added_tok"),
    "an end of a list": (told(eos_token=[1]), UserError, "eos_token"),
    "a flag of a text": (told(added_tokens_decoder={"0": {"content": "a", "lstrip": "yes"}}), UserError, "added_tok"),
    "a number of 99 digits": (told(added_tokens_decoder={"9" * 99: {"content": "a"}}), UserError, "added_tok"),
    "more tokens of numbers": (told(additional_special_tokens=[3]), UserError, "additional_special_tokens"),
    "a side of a list": (told(padding_side=["left"]), UserError, "padding_side"),
    "a special token of a list": (put("special_tokens_map.json", {"eos_token": [1]}), UserError, "MODEL-E0117"),
    "parts of a tokenizer elsewhere": (told(vocab="/etc/passwd"), SecurityRefusal, "MODEL-E0306"),
    "a file of a tokenizer elsewhere": (told(merges_file="/etc/passwd"), SecurityRefusal, "MODEL-E0306"),
    "weights elsewhere": (config(transformers_weights="../x.safetensors"), SecurityRefusal, "MODEL-E0306"),
    "a configuration elsewhere": (config(configuration_files=["../config.4.0.0.json"]), SecurityRefusal, "MODEL-E0306"),
    "a kernel of a part": (config(decoder={"attn_implementation": "a/b"}), SecurityRefusal, "MODEL-E0305"),
    "code of a part in a list": (config(parts=[{"auto_map": {"A": "evil.M"}}]), SecurityRefusal, r"evil\.py"),
    "code of a processor's part": (
        put("processor_config.json", {"image_processor": {"auto_map": {"A": "evil.M"}}}), SecurityRefusal, r"evil\.py"
    ),
    "an expression that is none": (split_by("((("), UserError, "MODEL-E0117.*cannot be loaded"),
    "an expression that tries for ever": (split_by("(a+)+$"), UserError, "MODEL-E0117.*common words"),
    "a part of an unknown kind": (tokens(normalizer={"type": "Evil"}), UserError, "MODEL-E0117.*cannot be loaded"),
    "a table of characters that is none": (
        tokens(normalizer={"type": "Precompiled", "precompiled_charsmap": "!!"}), UserError, "MODEL-E0117"
    ),
    "a table of characters that leads out": (
        tokens(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAAAAAA"}), UserError, "MODEL-E0117"
    ),
    "a merge of unknown tokens": (
        tokens(model={"type": "BPE", "vocab": {"<pad>": 0, "<end>": 1}, "merges": [["a", "b"]]}), UserError, "E0117"
    ),
    "a padding to a trillion": (tokens(padding={**PADDING, "strategy": {"Fixed": 10**12}}), UserError, "E0117.*memory"),
    "generation by a text": (put("generation_config.json", {"eos_token_id": "x"}), UserError, "eos_token_id"),
    "words of texts": (put("generation_config.json", {"bad_words_ids": ["x"]}), UserError, "bad_words_ids"),
    "suppressed lists": (put("generation_config.json", {"suppress_tokens": [[1]]}), UserError, "suppress_tokens"),
    "generation that is cut": (put("generation_config.json", "{"), UserError, "MODEL-E0109"),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_hostile_model_is_refused_by_the_plan_and_by_the_import_alone(model, name):
    act, error, words = MODELS[name]
    act(model)
    with pytest.raises(error, match=words):
        planned(model)
    with pytest.raises(error, match=words):
        imported(model, digest=digest_of(model))
    assert not (model.parent / "out").exists()


@pytest.mark.parametrize("name", ["nope", "../../etc", "__class__", "LLAMA"])
def test_an_architecture_that_nobody_knows_is_refused_by_the_plan(model, name):
    config(model_type=name)(model)
    with pytest.raises(UserError, match="MODEL-E0129 pytorch_model_path: model_type"):
        planned(model)


def test_the_model_is_a_good_one_without_these_changes(model, adapter):
    planned(model, adapter_path=str(adapter))
    found = AdapterFound(kind="pytorch", source=Resolved(uri=str(adapter), digest=digest_of(adapter)), use="continue")
    imported(model, digest=digest_of(model), adapter=found)
    assert (model.parent / "out/adapter/adapter_config.json").is_file()


@pytest.mark.parametrize(
    "act",
    [
        config(intermediate_size=[8, 16], num_key_value_heads=[1, 2]),
        config(attn_implementation="sdpa", _attn_implementation="eager", use_kernels=False, auto_map={}),
        config(pad_token_id=-1, eos_token_id=[1, 2], id2label={"0": "a"}, head_dim=None),
        config(rope_parameters={"full_attention": {"rope_type": "yarn", "factor": 2.0}}),
        told(model_max_length=1e30, eos_token={"content": "<end>", "special": True}, chat_template=[
            {"name": "default", "template": "{{ messages[0].content }}"}]),
        put("chat_template.jinja", "{% for m in messages[::-1] %}{{ '%s' % m.role }}{{ m.content }}{% endfor %}"),
        told(tokenizer_file="/root/tokenizer.json", vocab_file=None, additional_special_tokens=["a", {"content": "b"}],
             added_tokens_decoder={"0": {"content": "<pad>", **END}}, padding_side="left", add_bos_token=None),
        config(label2id={"kernels": 3}, id2label={"3": "kernels"}, transformers_weights="model.safetensors"),
        both(split_by(r"\s+|\w+"), put("special_tokens_map.json", {"eos_token": {"content": "<end>", **END}})),
        tokens(normalizer={"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}),
        tokens(model={"type": "WordLevel", "vocab": {"<pad>": 0, "<end>": 1}, "unk_token": "none"}),
    ],
)  # fmt: skip
def test_odd_models_that_are_good_pass(model, act):
    act(model)
    planned(model)
    imported(model, digest=digest_of(model))


MLMODELS = {
    "a tag": b"!!python/object/apply:os.system ['touch pwned']",
    "a list": b"- a",
    "a number": b"3",
    "flavours of a list": b"flavors: [transformers]",
    "numbers for names": b"flavors: {1: 2}",
    "a date that is none": b"flavors: 2026-99-99",
    "a switch that is none": b"a: !!bool maybe",
    "a number without digits": b"a: !!int ''",
    "a number of 60,000 digits": b"flavors: 0x" + b"f" * 60_000,
    "aliases": b"a: &a [x]\nflavors: {transformers: *a}",
    "deep lists": b"[" * 200_000,
    "deep objects": "".join(" " * level + "a:\n" for level in range(500)).encode(),
    "another encoding": "flavors: {}".encode("utf-16"),
    "bytes": b"flavors: \xff",
    "an escape of no character": b'a: "\\UFFFFFFFF"',
    "5 MB": b"a: " + b"x" * 5_000_000,
}


@pytest.mark.parametrize("name", MLMODELS)
def test_a_hostile_mlmodel_file_is_refused(model, name):
    folder = model.parent / "mlflow"
    folder.mkdir()
    shutil.move(model, folder / "model")
    (folder / "MLmodel").write_bytes(MLMODELS[name])
    write_jsonl(folder.parent / "rows.jsonl", chat_rows(40))
    for judge in (lambda: planned(folder, pytorch_model_path="", mlflow_model_path=str(folder)),
                  lambda: imported(folder, "mlflow")):  # fmt: skip
        with pytest.raises(UserError):
            judge()


def test_yaml_of_very_many_values_is_refused_before_it_is_read_as_a_whole():
    with pytest.raises(ValueError, match="more than 20,000 names and values"):
        plain_yaml(b"[" + b"[]," * 20_001 + b"]")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://a::http://169.254.169.254/x",
        "hf://../..",
        "hf://owner/name@../../x",
        "zip://x.zip::s3://a/b",
        "s3://a/../b",
    ],
)
def test_an_address_that_leads_elsewhere_is_refused(model, uri):
    for given in ({"pytorch_model_path": uri}, {"train_file_path": uri}):
        with pytest.raises(UserError, match="URI-E0"):
            planned(model, **given)
    with pytest.raises(UserError, match="URI-E0"):
        import_model(ImportSettings(kind="pytorch", source=Resolved(uri=uri, digest="0")), model / "a", model / "b")


def test_data_behind_a_link_out_of_its_folder_is_refused(model):
    folder = model.parent / "data"
    folder.mkdir()
    write_jsonl(folder / "own.jsonl", chat_rows(40))
    (folder / "rows.jsonl").symlink_to(model.parent / "rows.jsonl")
    with pytest.raises(SecurityRefusal, match=r"DATA-E2001 train_file_path: .*rows\.jsonl"):
        planned(model, train_file_path=str(folder))
