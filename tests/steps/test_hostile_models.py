"""Models, adapters and templates that were written to stop a run: the plan refuses them, and import_model alone.

The model here has no torch behind it, so that each case takes some milliseconds; a case that takes longer than SECONDS
fails.
"""

import importlib.util
import json
import math
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import chat_rows, write_jsonl
from hostile_files import (
    ADAPTED,
    CONFIG,
    DOUBLING,
    END,
    ENDLESS,
    LORA,
    SHAPES,
    TOKENIZER,
    TOKENIZER_CONFIG,
    Act,
    header,
    put,
    safetensors,
)

from steps.errors import SecurityRefusal, StepError, UserError
from steps.import_model.step import import_model
from steps.models.template_trial import is_plain
from steps.params.settings import AdapterFound, ImportSettings, Resolved
from steps.plan.deciding import decide
from steps.sources import storage
from steps.sources.plain_yaml import plain_yaml

SECONDS = 10
EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
DOUBLED = {"type": "Replace", "pattern": {"Regex": "a|b"}, "content": "aa"}
PADDING = {"direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}
DEEP = '{"a":' * 20_000 + "1" + "}" * 20_000


def tensor(**changes: object) -> bytes:
    """Return a weight file with one tensor, of which the header tells something else."""
    return header({"a.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}}, bytes(4))


def config(**changes: object) -> Act:
    return put("config.json", {**CONFIG, **changes})


def tokens(**changes: object) -> Act:
    return put("tokenizer.json", {**TOKENIZER, **changes})


def split_by(expression: str) -> Act:
    return tokens(pre_tokenizer={"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated",
                                 "invert": False})  # fmt: skip


def told(**changes: object) -> Act:
    return put("tokenizer_config.json", {**TOKENIZER_CONFIG, **changes})


def link(name: str, target: str) -> Act:
    def act(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return act


def fifo(name: str) -> Act:
    def act(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return act


def huge(name: str) -> Act:
    def act(folder: Path) -> None:
        (folder / name).touch()
        os.truncate(folder / name, 6 << 30)

    return act


def index(content: object) -> Act:
    def act(folder: Path) -> None:
        put("model.safetensors.index.json", content)(folder)
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")

    return act


def weights(content: bytes) -> Act:
    return put("model.safetensors", content)


def folder_for(name: str) -> Act:
    def act(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        put(f"{name}/more/x.txt", "x")(folder)

    return act


def both(*acts: Act) -> Act:
    def act(folder: Path) -> None:
        for one in acts:
            one(folder)

    return act


def not_utf8(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.txt")).touch()


@contextmanager
def soon(seconds: int = SECONDS) -> Iterator[None]:
    """Fail what takes longer, also while it waits for a file that never ends."""

    def fail(*_: object) -> None:
        raise AssertionError(f"more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def model(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_jsonl(tmp_path / "rows.jsonl", chat_rows(40))
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in {"config": CONFIG, "tokenizer": TOKENIZER, "tokenizer_config": TOKENIZER_CONFIG}.items():
        put(f"{name}.json", content)(folder)
    weights(safetensors(SHAPES))(folder)
    return folder


@pytest.fixture
def adapter(model) -> Path:
    folder = model.parent / "adapter"
    folder.mkdir()
    put("adapter_config.json", LORA)(folder)
    factors = {f"{ADAPTED}.lora_A.weight": [2, 8], f"{ADAPTED}.lora_B.weight": [8, 2]}
    put("adapter_model.safetensors", safetensors(factors))(folder)
    return folder


def planned(model: Path, seconds: int = SECONDS, **given: object) -> object:
    given = {"pytorch_model_path": str(model), "number_of_gpu_to_use_finetuning": 0, **given}
    with soon(seconds):
        return decide("chat_completion", {"train_file_path": str(model.parent / "rows.jsonl"), **given})


def imported(model: Path, kind: str = "pytorch", digest: str = "", **more: object) -> None:
    settings = ImportSettings(kind=kind, source=Resolved(uri=str(model), digest=digest or "0" * 64), **more)
    with soon():
        import_model(settings, model.parent / "out", model.parent / "out-tokenizer")


def digest_of(folder: Path) -> str:
    """Return the digest of a folder; none of one that has to be refused before its digest is computed."""
    if any(file.is_symlink() or file.stat().st_size > 1 << 30 for file in folder.iterdir()):
        return ""
    with suppress(UserError):
        return storage.digest_of("pytorch_model_path", str(folder))
    return ""


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


ADAPTED_FILES = {
    "code of a processor": (put("processor_config.json", {"auto_map": {"A": "evil.M"}}), SecurityRefusal, r"evil\.py"),
    "a tokenizer that reads elsewhere": (
        put("tokenizer_config.json", {"vocab": "/etc/passwd"}), SecurityRefusal, "MODEL-E0306"
    ),
    "generation by a text": (put("generation_config.json", {"eos_token_id": "x"}), UserError, "eos_token_id"),
    "settings that are a folder": (folder_for("tokenizer_config.json"), UserError, "MODEL-E0128 adapter_path"),
}  # fmt: skip


@pytest.mark.parametrize("name", ADAPTED_FILES)
def test_a_hostile_file_beside_an_adapter_is_refused_by_the_plan_and_by_the_import_alone(model, adapter, name):
    act, error, words = ADAPTED_FILES[name]
    act(adapter)
    found = AdapterFound(kind="pytorch", source=Resolved(uri=str(adapter), digest=digest_of(adapter)), use="continue")
    with pytest.raises(error, match=words):
        planned(model, adapter_path=str(adapter), adapter_use="continue")
    with pytest.raises(error, match=words):
        imported(model, digest=digest_of(model), adapter=found)


def test_yaml_of_very_many_values_is_refused_before_it_is_read_as_a_whole():
    with pytest.raises(ValueError, match="more than 20,000 names and values"):
        plain_yaml(b"[" + b"[]," * 20_001 + b"]")


SLOW = "(([a-z_.0-9]+)+)+x"
ADAPTERS = {
    "a slow expression": ({"target_modules": SLOW}, "MERGE-E0106.*seconds"),
    "a slow expression for ranks": ({"rank_pattern": {SLOW: 4}}, "MERGE-E0106.*seconds"),
    "a slow expression for others": ({"exclude_modules": SLOW}, "MERGE-E0106.*seconds"),
    "a deep expression": ({"target_modules": "(" * 4000 + ")" * 4000}, "MERGE-E0106"),
    "an endless repetition": ({"alpha_pattern": {"a{99999999999999}": 3}}, "MERGE-E0106"),
    "a long expression": ({"target_modules": "a|" * 100_000}, "MERGE-E0106"),
    "targets of a number": ({"target_modules": 3}, "target_modules"),
    "targets of lists": ({"target_modules": [["q_proj"]]}, "target_modules"),
    "an infinite rank": ({"r": math.inf}, "MODEL-E0116.*a whole number"),
    "a rank of 300 digits": ({"r": 10**300}, "MODEL-E0116"),
    "a rank of a text": ({"r": "2"}, "MODEL-E0116"),
    "half a rank": ({"r": 2.5}, "MODEL-E0116"),
    "a dropout of a list": ({"lora_dropout": [1]}, "lora_dropout"),
    "a dropout of more than everything": ({"lora_dropout": 7}, "lora_dropout"),
    "a dropout that is no number": ({"lora_dropout": math.nan}, "lora_dropout"),
    "an unknown bias": ({"bias": "evil"}, "bias"),
    "layers by name": ({"layers_to_transform": ["a"]}, "layers_to_transform"),
    "ranks of a list": ({"rank_pattern": [1]}, "rank_pattern"),
    "an alpha of 400 digits": ({"lora_alpha": 10**400}, "MERGE-E0106"),
    "an alpha that is no number": ({"lora_alpha": math.nan}, "MERGE-E0106"),
    "a kind of a list": ({"peft_type": ["LORA"]}, "peft_type"),
    "a task of a list": ({"task_type": ["x"]}, "task_type"),
    "modules of lists": ({"modules_to_save": [["a"]]}, "modules_to_save"),
    "a base of an object": ({"base_model_name_or_path": {"x": 1}}, "base_model_name_or_path"),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_hostile_adapter_is_refused_by_the_plan_and_by_the_import_alone(model, adapter, name):
    changes, words = ADAPTERS[name]
    put("adapter_config.json", {**LORA, **changes})(adapter)
    found = AdapterFound(kind="pytorch", source=Resolved(uri=str(adapter), digest=digest_of(adapter)), use="continue")
    with pytest.raises(UserError, match=words):
        planned(model, adapter_path=str(adapter), adapter_use="continue")
    with pytest.raises(UserError, match=words):
        imported(model, digest=digest_of(model), adapter=found)


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_does_not_end_is_refused_by_the_plan(model, name):
    put("chat_template.jinja", ENDLESS[name])(model)
    with pytest.raises(UserError, match=r"DATA-E0806 chat_template: .*takes more than"):
        planned(model, seconds=60)  # two of computing, on a machine that may be busy


@pytest.mark.parametrize(
    "text",
    [
        "{{ " + "+".join("a" * 5000) + " }}",
        "{{ a" + ".b" * 5000 + " }}",
        "{{ a" + "|trim" * 5000 + " }}",
        "{% if a %}" * 100 + "{% endif %}" * 100,
        "{% for a in a %}" * 30 + "{% endfor %}" * 30,
    ],
)
def test_a_template_that_is_nested_too_deep_to_be_compiled_is_refused_by_the_plan(model, text):
    put("chat_template.jinja", text)(model)
    with pytest.raises(UserError, match=r"DATA-E0806 chat_template: .*nested"):
        planned(model, seconds=60)


def test_a_tokenizer_that_does_not_end_is_refused_by_the_plan(model):
    tokens(normalizer={"type": "Sequence", "normalizers": [DOUBLED] * 40})(model)
    with pytest.raises(UserError, match=r"MODEL-E0117 .*(seconds|memory) for a few words"):
        planned(model, seconds=60)  # one of computing


@pytest.mark.parametrize("name", DOUBLING)
def test_a_template_whose_texts_may_double_is_tried_first(name):
    assert not is_plain(DOUBLING[name])


def test_the_templates_of_common_models_need_no_trial():
    trl = Path(importlib.util.find_spec("trl").origin).parent  # type: ignore[union-attr, arg-type]
    files = [file for kind in ("qwen", "llama", "phi") for file in (trl / "chat_templates").glob(f"{kind}*.jinja")]
    assert len(files) > 10
    assert [file.name for file in files if not is_plain(file.read_text())] == []


@pytest.mark.parametrize("text", ["{{ 'a' | nope }}", "{{ 1 / 0 }}", "{{ raise_exception('no') }}", "{{ 2 * 3 }}"])
def test_a_template_that_raises_is_left_to_the_rows(model, text):
    put("chat_template.jinja", text)(model)
    planned(model)


def test_a_number_of_thousands_of_digits_in_a_template_is_told(model):
    put("chat_template.jinja", "{{ " + "9" * 6000 + " }}")(model)
    with pytest.raises(UserError, match="DATA-E0806"):
        planned(model)


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


def test_a_slow_expression_of_the_user_is_told(model):
    with pytest.raises(UserError, match=r"PLAN-E0390 lora_target_modules: .*seconds"):
        planned(model, lora_target_modules=SLOW, apply_lora=True)


def test_data_behind_a_link_out_of_its_folder_is_refused(model):
    folder = model.parent / "data"
    folder.mkdir()
    write_jsonl(folder / "own.jsonl", chat_rows(40))
    (folder / "rows.jsonl").symlink_to(model.parent / "rows.jsonl")
    with pytest.raises(SecurityRefusal, match=r"DATA-E2001 train_file_path: .*rows\.jsonl"):
        planned(model, train_file_path=str(folder))
