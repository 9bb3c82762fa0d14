"""Pickled weights are refused on every way in: they would run code when they are opened."""

import json
import shutil
from pathlib import Path

import pytest
from input_adapters import make_adapter

from steps.adapters.folders import open_base
from steps.errors import SecurityRefusal, UserError
from steps.models.layout import INDEX, read_layout, refuse_unsafe_weights

UNSAFE = ["pytorch_model.bin", "weights.pt", "shard.safetensors.bin", "../other/model.safetensors", "a/b.safetensors",
          "..\\\\model.safetensors", "https://host/model.safetensors", ""]  # fmt: skip


def with_index(base: Path, folder: Path, files: object) -> Path:
    """Copy a model whose index lists these files; each of them exists where that is possible."""
    shutil.copytree(base, folder)
    (folder / "model.safetensors").unlink()
    for name in files if isinstance(files, list) else ():
        if name and "/" not in name and "\\" not in name:
            (folder / name).write_bytes(b"\x80\x04.")
    shown = {f"layer.{number}": name for number, name in enumerate(files)} if isinstance(files, list) else files
    (folder / INDEX).write_text(json.dumps({"weight_map": shown}))
    return folder


def layout_of(folder: Path, kind: str = "pytorch"):
    names = {str(file.relative_to(folder)): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    return read_layout("pytorch_model_path", kind, names, lambda name: (folder / name).read_bytes())


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("look", [layout_of, open_base, refuse_unsafe_weights], ids=lambda look: look.__name__)
def test_an_index_lists_nothing_but_safetensors_beside_it(tiny_model, tmp_path, look, name):
    folder = with_index(tiny_model, tmp_path / "model", ["model-1.safetensors", name])
    with pytest.raises(SecurityRefusal, match="MODEL-E0304"):
        look(folder)


@pytest.mark.parametrize("weight_map", [None, {}, [["a", "b"]], "model.safetensors", {"a": 1}, {"a": None}])
@pytest.mark.parametrize("look", [layout_of, open_base, refuse_unsafe_weights], ids=lambda look: look.__name__)
def test_an_index_that_is_none_is_said_to_be(tiny_model, tmp_path, look, weight_map):
    folder = with_index(tiny_model, tmp_path / "model", ["model-1.safetensors"])
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(UserError, match="MODEL-E0114"):
        look(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "adapter_model.bin"])
def test_a_folder_with_pickled_weights_only_is_not_loaded(tiny_model, tmp_path, name):
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(SecurityRefusal, match=f"MODEL-E0301 .*{name}"):
        refuse_unsafe_weights(folder)


def test_pickles_beside_safetensors_are_not_what_is_loaded(tiny_model, tmp_path):
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (folder / "optimizer.pt").write_bytes(b"\x80\x04.")
    refuse_unsafe_weights(folder)


@pytest.mark.slow
def test_whatever_loads_weights_looks_first(tiny_model, tmp_path, monkeypatch):
    from training_inputs import settings_with
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    from steps.finetune.checkpoints import CheckpointFolder, resume_point, seal
    from steps.finetune.continuing import continued
    from steps.finetune.heads import load_with_head
    from steps.finetune.loading import load_model
    from steps.generation.loading import load

    base = with_index(tiny_model, tmp_path / "base", ["pytorch_model.bin"])
    adapted = Path(shutil.copytree(tiny_model, tmp_path / "adapted"))
    adapter = make_adapter(tiny_model, adapted / "adapter")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    (checkpoint / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    seal(checkpoint)
    settings = settings_with(lora={"apply_lora": True})
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    whole = AutoModelForCausalLM.from_pretrained(tiny_model)
    ways = [
        lambda: load_model(base, settings_with()),
        lambda: load_with_head(AutoModelForSequenceClassification, base, settings_with(), tokenizer, num_labels=2),
        lambda: load(AutoModelForCausalLM, base, "32"),
        lambda: continued(whole, adapted, settings),
        lambda: resume_point(CheckpointFolder(tmp_path / "none", {}, tmp_path), str(checkpoint)),
    ]
    for way in ways:
        with pytest.raises(SecurityRefusal):
            way()
