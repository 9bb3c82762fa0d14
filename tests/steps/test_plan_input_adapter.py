"""The plan checks an adapter given with the model by settings and headers: its base, and whether it fits."""

import json
import shutil

import pytest
from conftest import build_model, write_jsonl
from input_adapters import change_json, make_adapter
from preferences import pair_rows

from steps import wire
from steps.errors import StepError
from steps.params.settings import FinetuneSettings, ImportSettings
from steps.plan.step import plan
from steps.sources.storage import digest_of


@pytest.fixture(scope="module")
def made(tiny_model, tmp_path_factory):
    return make_adapter(tiny_model, tmp_path_factory.mktemp("adapters") / "tuned")


@pytest.fixture
def adapter(made, tmp_path):
    return shutil.copytree(made, tmp_path / "adapter")


@pytest.fixture
def given(tiny_model, chat_file):
    return {"pytorch_model_path": str(tiny_model), "train_file_path": str(chat_file), "mlflow_server_uri": "http://m"}


def planned(given, tmp_path, pipeline="chat_completion", **changes):
    made = plan(pipeline, {**given, **changes}, tmp_path / "plan", tmp_path / "plan.html")
    told = json.loads((tmp_path / "plan/plan.json").read_text())
    return ImportSettings(**wire.load(made.model)), FinetuneSettings(**wire.load(made.training)), told


def refused(given, tmp_path, pipeline="chat_completion", **changes) -> str:
    with pytest.raises(StepError) as caught:
        planned(given, tmp_path, pipeline, **changes)
    return str(caught.value)


def test_an_adapter_is_pinned_and_named(given, tmp_path, adapter, tiny_model):
    model, training, told = planned(given, tmp_path, adapter_path=str(adapter))
    assert model.adapter.use == "merge"
    assert model.adapter.source.digest == digest_of("adapter_path", str(adapter))
    assert not training.lora.apply_lora
    source = next(one for one in told["sources"] if one["what"] == "adapter")
    assert source["uri"] == str(adapter)
    assert source["bytes"] == (adapter / "adapter_model.safetensors").stat().st_size
    assert told["tasks"][0]["what"] == "check and copy the model, merge its adapter"
    assert str(adapter) in (tmp_path / "plan.html").read_text()
    assert told["warnings"] == []


def test_continued_training_takes_the_parameters_of_the_adapter(given, tmp_path, adapter):
    model, training, told = planned(given, tmp_path, adapter_path=str(adapter), adapter_use="continue")
    lora = training.lora
    assert model.adapter.use == "continue"
    assert (lora.apply_lora, lora.lora_r, lora.lora_alpha, lora.lora_target_modules) == (True, 4, 8, "q_proj,v_proj")
    assert told["effective"]["lora_r"] == 4
    assert "continued" in told["tasks"][2]["what"]


def test_parameters_equal_to_the_adapters_are_accepted_and_others_refused(given, tmp_path, adapter):
    goes_on = {"adapter_path": str(adapter), "adapter_use": "continue"}
    same = {"apply_lora": True, "lora_r": 4, "lora_alpha": 8, "lora_target_modules": "v_proj, q_proj"}
    assert planned(given, tmp_path, **goes_on, **same)[1].lora.lora_r == 4
    said = refused(given, tmp_path, **goes_on, lora_r=16, lora_target_modules="q_proj")
    assert "16 where the adapter has 4" in said
    assert "q_proj where the adapter has q_proj,v_proj" in said


def test_an_adapter_in_place_of_the_model_brings_its_base(given, tmp_path, adapter, tiny_model):
    model, _, told = planned(given, tmp_path, pytorch_model_path=str(adapter))
    assert model.source.uri == str(tiny_model)
    assert model.adapter.source.uri == str(adapter)
    assert [one["uri"] for one in told["sources"][:2]] == [str(tiny_model), str(adapter)]


def test_the_base_of_an_adapter_may_be_on_the_hub(given, tmp_path, adapter, tiny_model, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub/models--owner--tiny"
    shutil.copytree(tiny_model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    change_json(adapter / "adapter_config.json", base_model_name_or_path="owner/tiny")
    model, _, _ = planned(given, tmp_path, pytorch_model_path=str(adapter))
    assert (model.kind, model.source.uri, model.source.digest) == ("huggingface", "owner/tiny", commit)


def bare(name: str, value: object):
    return lambda folder: change_json(folder / "adapter_config.json", **{name: value})


def grow(folder, tiny_model, number=999):
    told = json.loads((tiny_model / "tokenizer.json").read_text())
    told["added_tokens"].append({**told["added_tokens"][-1], "id": number, "content": "<new>"})
    (folder / "tokenizer.json").write_text(json.dumps(told))


UNFIT = {
    "another task": (bare("task_type", "SEQ_CLS"), {}, "an adapter with task_type SEQ_CLS"),
    "another kind": (bare("peft_type", "PROMPT_TUNING"), {}, "PROMPT_TUNING"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), {}, "without adapter_model.safetensors"),
    "no adapter": (lambda f: (f / "adapter_config.json").unlink(), {}, "no adapter_config.json"),
    "pickled": (lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"), {}, "pickled weights"),
    "cut": (lambda f: (f / "adapter_model.safetensors").write_bytes(b"cut"), {}, "a complete safetensors file"),
    "other rank": (bare("r", 2), {}, "the rank 2"),
    "two": (lambda f: None, {"pytorch_model_path": "{adapter}"}, "two adapters"),
}


@pytest.mark.parametrize("use", ["merge", "continue"])
@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_is_refused_on_a_cpu(given, tmp_path, adapter, name, use):
    act, changes, words = UNFIT[name]
    act(adapter)
    changes = {key: value.format(adapter=adapter) for key, value in changes.items()}
    said = refused(given, tmp_path, adapter_path=str(adapter), adapter_use=use, **changes)
    assert words in said
    assert "/base" not in said.replace(str(tmp_path), "")  # folders made for the look are nobody's business


def test_an_adapter_of_a_wider_base_or_with_more_tokens_is_refused(given, tmp_path, adapter, tiny_model):
    build_model(tmp_path / "wide", hidden_size=128)
    said = refused(given, tmp_path, adapter_path=str(adapter), pytorch_model_path=str(tmp_path / "wide"))
    assert f"adapter ({adapter})" in said
    assert "model.layers.0.self_attn.q_proj" in said
    grow(adapter, tiny_model)
    assert "a tokenizer with 1000 tokens" in refused(given, tmp_path, adapter_path=str(adapter))
    rows = json.loads((tiny_model / "config.json").read_text())["vocab_size"]
    grow(adapter, tiny_model, rows)
    assert f"a tokenizer with {rows + 1} tokens" in refused(given, tmp_path, adapter_path=str(adapter))
    grow(adapter, tiny_model, rows - 1)
    assert "DATA-E0801 chat_template" in refused(given, tmp_path, adapter_path=str(adapter))
    shutil.copy(tiny_model / "chat_template.jinja", adapter)
    planned(given, tmp_path, adapter_path=str(adapter))


def test_only_headers_are_read_where_the_weights_are_far_away(given, tmp_path, adapter, tiny_model, monkeypatch):
    from steps.sources import storage
    from steps.sources.model_files import ModelFiles

    monkeypatch.setattr(ModelFiles, "local", lambda self, name: None)
    read = []
    whole = storage.read_bytes

    def noted(parameter, uri, limit=-1):
        found = whole(parameter, uri, limit)
        read.append((uri, len(found)))
        return found

    monkeypatch.setattr(storage, "read_bytes", noted)
    planned(given, tmp_path, adapter_path=str(adapter))
    size = (tiny_model / "model.safetensors").stat().st_size
    bytes_read = sum(count for uri, count in read if uri.endswith("/model.safetensors"))
    assert 0 < bytes_read < size / 10
    build_model(tmp_path / "wide", hidden_size=128)
    assert "E0205" in refused(given, tmp_path, adapter_path=str(adapter), pytorch_model_path=str(tmp_path / "wide"))


def test_a_base_that_cannot_be_found_is_an_error(given, tmp_path, adapter):
    change_json(adapter / "adapter_config.json", base_model_name_or_path="")
    assert "with huggingface_id or pytorch_model_path" in refused(given, tmp_path, pytorch_model_path=str(adapter))
    change_json(adapter / "adapter_config.json", base_model_name_or_path=str(tmp_path / "gone"))
    said = refused(given, tmp_path, pytorch_model_path=str(adapter))
    assert "which cannot be opened" in said
    assert f"{adapter} with adapter_path" in said


def test_going_on_needs_an_adapter_and_weights(given, tmp_path, adapter):
    assert "PLAN-E0351" in refused(given, tmp_path, adapter_use="continue")
    said = refused(given, tmp_path, "pretraining", adapter_path=str(adapter), new_weights=True)
    assert "PARAM-E0266" in said


def test_an_adapter_on_other_weights_is_warned_of(given, tmp_path, adapter, tiny_model):
    other = shutil.copytree(tiny_model, tmp_path / "tiny-instruct")
    _, _, told = planned(given, tmp_path, adapter_path=str(adapter), pytorch_model_path=str(other))
    assert any(f"the adapter names {tiny_model}" in warning for warning in told["warnings"])


@pytest.fixture
def preferences(given, tmp_path):
    return {**given, "train_file_path": str(write_jsonl(tmp_path / "pairs.jsonl", pair_rows(60)))}


def test_a_reference_is_pinned_and_needs_memory(preferences, tmp_path, tiny_model):
    other = shutil.copytree(tiny_model, tmp_path / "other")
    model, training, told = planned(preferences, tmp_path, "preference", reference_model_path=str(other))
    assert model.reference.source.digest == digest_of("path", str(other))
    assert training.preferred.reference_model_path == ""  # its content counts, not its place
    assert {"what": "reference", "uri": str(other)}.items() <= told["sources"][1].items()
    weights = (tiny_model / "model.safetensors").stat().st_size
    assert told["memory"]["parts"]["reference model"] == pytest.approx(weights, rel=0.02)
    lora = planned(preferences, tmp_path, "preference", reference_model_path=str(other), apply_lora=True)[2]
    assert "reference model" in lora["memory"]["parts"]


def test_a_reference_that_does_not_fit_is_refused(preferences, tmp_path, tiny_model):
    other = shutil.copytree(tiny_model, tmp_path / "other")
    changes = {"reference_model_path": str(other)}
    assert "reference_model_path has no effect for orpo" in refused(
        preferences, tmp_path, "preference", **changes, method="orpo"
    )
    told = json.loads((other / "tokenizer.json").read_text())
    one, two = list(told["model"]["vocab"])[10:12]
    vocabulary = told["model"]["vocab"]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (other / "tokenizer.json").write_text(json.dumps(told))
    assert "PLAN-E0356" in refused(preferences, tmp_path, "preference", **changes)
    told = json.loads((tiny_model / "tokenizer.json").read_text())
    told["added_tokens"].pop()  # the vocabulary is the same: it cuts that token into letters
    (other / "tokenizer.json").write_text(json.dumps(told))
    assert "PLAN-E0356" in refused(preferences, tmp_path, "preference", **changes)
    assert "nothing at" in refused(preferences, tmp_path, "preference", reference_model_path=str(tmp_path / "gone"))
