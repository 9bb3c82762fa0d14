"""Every valid source is imported as a checked folder; every invalid one is refused before anything is written."""

import json
import shutil
from pathlib import Path

import pytest

from steps.artifacts import read_manifest
from steps.errors import SecurityRefusal, StepError, UserError
from steps.import_model.step import import_model
from steps.params.model_source import SOURCE_PARAMETER
from steps.params.settings import ImportSettings, Resolved
from steps.sources import storage


def bring(source: Path, out: Path, kind: str = "pytorch", digest: str = ""):
    digest = digest or storage.digest_of(SOURCE_PARAMETER[kind], str(source))
    settings = ImportSettings(kind=kind, source=Resolved(uri=str(source), digest=digest))
    import_model(settings, out / "model", out / "tokenizer")
    return read_manifest(out / "model", "model")


@pytest.fixture
def source(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "source")


def same_model(one: Path, other: Path) -> bool:
    from transformers import AutoModelForCausalLM

    states = [AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (one, other)]
    return all(states[0][name].equal(states[1][name]) for name in states[0])


def test_a_plain_folder_is_copied_and_its_tokenizer_stands_alone(source, tmp_path):
    from transformers import AutoTokenizer

    manifest = bring(source, tmp_path)
    assert manifest.facts["architecture"] == "LlamaForCausalLM"
    assert same_model(source, tmp_path / "model")
    alone = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert alone("What is 7?").input_ids == AutoTokenizer.from_pretrained(source)("What is 7?").input_ids
    assert not list((tmp_path / "tokenizer").glob("*.safetensors"))


def test_the_number_of_parameters_is_the_models(source, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source)
    assert bring(source, tmp_path).facts["parameters"] == sum(p.numel() for p in model.parameters())


def test_a_nested_folder_is_found(source, tmp_path):
    (tmp_path / "outer/model_artifact").mkdir(parents=True)
    shutil.move(source, tmp_path / "outer/model_artifact/model")
    bring(tmp_path / "outer", tmp_path)
    assert (tmp_path / "model/model.safetensors").exists()


def test_a_sharded_model_keeps_its_shards(tiny_model, source, tmp_path):
    from transformers import AutoModelForCausalLM

    (source / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(source, max_shard_size="100KB")
    assert len(list(source.glob("*.safetensors"))) > 1
    bring(source, tmp_path)
    assert same_model(tiny_model, tmp_path / "model")


@pytest.mark.slow
def test_an_mlflow_model_is_taken_apart(tiny_model, tmp_path):
    import mlflow
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parts = {
        "model": AutoModelForCausalLM.from_pretrained(tiny_model),
        "tokenizer": AutoTokenizer.from_pretrained(tiny_model),
    }
    mlflow.transformers.save_model(parts, tmp_path / "mlflow", task="text-generation", pip_requirements=["mlflow"])
    bring(tmp_path / "mlflow", tmp_path, kind="mlflow")
    assert same_model(tiny_model, tmp_path / "model")


def test_a_hub_id_is_taken_from_the_cache_at_its_commit(tiny_model, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub/models--owner--tiny"
    shutil.copytree(tiny_model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    from steps.sources import hub

    assert hub.resolve("owner/tiny", "main").commit == commit
    settings = ImportSettings(kind="huggingface", source=Resolved(uri="owner/tiny", digest=commit))
    import_model(settings, tmp_path / "model", tmp_path / "tokenizer")
    assert same_model(tiny_model, tmp_path / "model")


def test_a_hub_id_that_is_not_there_offline_says_what_to_do(monkeypatch, tmp_path):
    from steps.sources import hub

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="pytorch_model_path"):
        hub.resolve("owner/nothing", "main")


def mend(file: str, change) -> callable:
    return lambda folder: (folder / file).write_text(json.dumps(change(json.loads((folder / file).read_text()))))


def replace_weights(name: str, content: bytes) -> callable:
    def act(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(content)

    return act


def cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def lose_a_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def link_out(folder: Path) -> None:
    (folder / "README.md").symlink_to("/etc/passwd")


BAD_SOURCES = {
    "adapter": (lambda f: (f / "config.json").rename(f / "adapter_config.json"), UserError, "merge-adapter"),
    "mlflow": (lambda f: (f / "MLmodel").write_text("flavors: {}"), UserError, "mlflow_model_path"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), UserError, "model.safetensors"),
    "no tokenizer": (lambda f: [(f / n).unlink() for n in ("tokenizer.json",)], UserError, "tokenizer"),
    "pickle": (replace_weights("pytorch_model.bin", b"\x80\x04."), SecurityRefusal, "pytorch_model.bin"),
    "cut": (cut_weights, UserError, "model.safetensors"),
    "no safetensors": (replace_weights("model.safetensors", b"PK\x03\x04 a zip"), UserError, "not a safetensors file"),
    "missing shards": (lose_a_shard, UserError, "model-00001-of-00002.safetensors, model-00002-of-00002"),
    "remote code": (
        mend("config.json", lambda c: {**c, "auto_map": {"AutoModel": "evil.Model"}}), SecurityRefusal, "evil.py",
    ),
    "broken config": (lambda f: (f / "config.json").write_text("{"), UserError, "config.json"),
    "a link that leaves the folder": (link_out, SecurityRefusal, "README.md"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_SOURCES)
def test_a_bad_source_is_refused_by_name_and_leaves_nothing(source, tmp_path, name):
    act, error, words = BAD_SOURCES[name]
    act(source)
    with pytest.raises(error, match=words.replace(".", r"\.")):
        bring(source, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a_plain_folder_as_mlflow_model_names_the_right_parameter(source, tmp_path):
    with pytest.raises(UserError, match="pytorch_model_path"):
        bring(source, tmp_path, kind="mlflow")


def test_a_model_that_changed_after_the_plan_is_refused(source, tmp_path):
    with pytest.raises(StepError, match="changed after the plan"):
        bring(source, tmp_path, digest="0" * 64)
