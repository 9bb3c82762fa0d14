"""An adapter given with a model is merged exactly as by PEFT, or stored beside the model's weights."""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import build_model
from input_adapters import change_json, import_settings, make_adapter

from steps.artifacts import read_manifest
from steps.errors import NumericError, StepError, UserError
from steps.import_model.step import import_model

PROCESSOR = "preprocessor_config.json"


@pytest.fixture(scope="module")
def adapter(tiny_model, tmp_path_factory):
    return make_adapter(tiny_model, tmp_path_factory.mktemp("adapters") / "tuned")


def bring(out, *given, **more):
    import_model(import_settings(*given, **more), out / "model", out / "tokenizer")
    return read_manifest(out / "model", "model")


def tensors(folder) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def merged_by_peft(base, adapter, folder) -> dict:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload().save_pretrained(
        folder
    )
    return tensors(folder)


def test_merged_it_is_bit_for_bit_what_peft_merges(tiny_model, adapter, tmp_path):
    manifest = bring(tmp_path, tiny_model, adapter)
    theirs, ours = merged_by_peft(tiny_model, adapter, tmp_path / "peft"), tensors(tmp_path / "model")
    assert theirs.keys() == ours.keys()
    assert all(theirs[name].equal(ours[name]) for name in theirs)
    assert manifest.lineage["adapter"]["source"]["uri"] == str(adapter)
    assert manifest.lineage["source"] == str(tiny_model)
    assert manifest.facts["parameters"] == sum(tensor.numel() for tensor in ours.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "peft", "tokenizer"]


@pytest.mark.parametrize("use", ["merge", "continue"])
def test_the_tokenizer_that_an_adapter_was_trained_with_wins(tiny_model, adapter, tmp_path, use):
    own = shutil.copytree(adapter, tmp_path / "own")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model / name, own)
    (own / "chat_template.jinja").write_text("{{ messages }}")
    base = shutil.copytree(tiny_model, tmp_path / "base")
    for name in (PROCESSOR, "special_tokens_map.json"):
        (base / name).write_text("{}")
    bring(tmp_path / "out", base, own, use)
    assert (tmp_path / "out/model" / PROCESSOR).is_file()  # it prepares images, and is no part of a tokenizer
    for folder in ("model", "tokenizer"):
        assert (tmp_path / "out" / folder / "chat_template.jinja").read_text() == "{{ messages }}"
        assert not (tmp_path / "out" / folder / "special_tokens_map.json").exists()


def test_continued_it_is_stored_in_its_own_folder_and_the_weights_are_unchanged(tiny_model, adapter, tmp_path):
    manifest = bring(tmp_path, tiny_model, adapter, "continue")
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= set(manifest.files)
    assert all(tensors(tmp_path / "model")[name].equal(tensor) for name, tensor in tensors(tiny_model).items())
    assert (tmp_path / "model/tokenizer.json").read_bytes() == (tiny_model / "tokenizer.json").read_bytes()
    assert not (tmp_path / "tokenizer/adapter").exists()
    plain = bring(tmp_path / "plain", tiny_model)
    assert manifest.digest != plain.digest  # checkpoints of one are not taken for the other's


def test_a_reference_stands_in_a_folder_of_its_own(tiny_model, tmp_path):
    build_model(tmp_path / "other", num_hidden_layers=1)
    manifest = bring(tmp_path, tiny_model, reference=tmp_path / "other")
    other = read_manifest(tmp_path / "model").files
    assert other["reference/model.safetensors"]["sha256"] != other["model.safetensors"]["sha256"]
    assert not [name for name in manifest.files if name.startswith("reference/token")]


def test_one_that_changed_after_the_plan_is_refused(tiny_model, adapter, tmp_path):
    own = shutil.copytree(adapter, tmp_path / "own")
    settings = import_settings(tiny_model, own)
    change_json(own / "adapter_config.json", lora_alpha=16)
    with pytest.raises(StepError, match=r"adapter_path.*changed after the plan"):
        import_model(settings, tmp_path / "model", tmp_path / "tokenizer")


@pytest.mark.parametrize("use", ["merge", "continue"])
def test_one_of_another_base_is_refused_and_leaves_nothing(tiny_model, tmp_path, use):
    build_model(tmp_path / "wide", hidden_size=128)
    other = make_adapter(tmp_path / "wide", tmp_path / "other")
    with pytest.raises(UserError, match="MERGE-E0205"):
        bring(tmp_path / "out", tiny_model, other, use)
    assert not list((tmp_path / "out").glob("*"))


def test_an_adapter_that_learned_nothing_is_not_merged(tiny_model, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM")).save_pretrained(tmp_path / "new")
    with pytest.raises((UserError, NumericError), match="MERGE-E0301"):
        bring(tmp_path, tiny_model, tmp_path / "new")
    bring(tmp_path, tiny_model, tmp_path / "new", "continue")


@pytest.mark.parametrize(("use", "loaded"), [("", False), ("continue", False), ("merge", True)])
def test_torch_is_loaded_only_to_merge(tiny_model, adapter, tmp_path, use, loaded):
    from steps import wire

    given = import_settings(tiny_model, adapter, use) if use else import_settings(tiny_model)
    script = (
        "import sys\nfrom steps.running import run_step\n"
        "run_step('import-model', sys.argv[1], model=sys.argv[2], tokenizer=sys.argv[3])\n"
        "print(sys.modules.get('torch') is not None)"
    )
    words = [wire.dump(given.model_dump(mode="json")), str(tmp_path / "model"), str(tmp_path / "tokenizer")]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(loaded)
    assert json.loads((tmp_path / "model/manifest.json").read_text())["kind"] == "model"
