"""Generation settings that transformers refuses to save or to load end no training, and stay those of the base."""

import inspect
import json
import shutil
from pathlib import Path

import pytest
from conftest import build_model, chat_rows
from encoder_decoders import build_t5
from preferences import pair_rows
from preferences import prepared as prepared_pairs
from test_seq2seq import prepared as prepared_texts
from training_inputs import as_imported, settings_with, train, write_tokens
from transformers import AutoModelForCausalLM, AutoTokenizer

from steps.generation.loading import load
from steps.merge_adapter.step import merge_adapter
from steps.models import generation_settings
from steps.models.generation_settings import load_reduced, settings_in
from steps.params.preference import PreferenceMethod
from steps.register_model import pyfunc_model, served_texts
from steps.register_model.pyfunc_model import generation_tokens
from steps.register_model.served_texts import Model

TOLD = {
    "temperature": {"temperature": 0.6, "top_p": 0.9},
    "top_k": {"do_sample": False, "top_k": 20},
    "min_p": {"min_p": 0.1},
    "typical_p": {"typical_p": 0.5},
    "length penalty": {"length_penalty": 2.0},
    "early stopping": {"early_stopping": True},
    "scores": {"output_scores": True},
    "cache": {"use_cache": False, "cache_implementation": "static"},
    "padding": {"pad_token_id": -1},
    "several answers": {"num_return_sequences": 4},
    "more answers than beams": {"num_return_sequences": 4, "num_beams": 2},
    "no new tokens": {"max_new_tokens": 0},
    "forced and forbidden": {"forced_eos_token_id": 2, "suppress_tokens": [2]},
    "unknown cache": {"cache_implementation": "nonsense"},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "stop strings": {"stop_strings": ["a"]},
    "sampling": {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "repetition_penalty": 1.05},
    "of no transformers": {"spirit": "high"},
}
LOADED = ("sampling", "of no transformers", "temperature", "early stopping")


def kept(told: dict, folder: Path) -> bool:
    """Return whether a tuned model's settings are those of the base, apart from its special tokens."""
    found = json.loads((folder / "generation_config.json").read_text())
    return {name: value for name, value in found.items() if not name.endswith("token_id")} == {
        name: value for name, value in told.items() if not name.endswith("token_id")
    }


def with_settings(folder: Path, told: dict) -> Path:
    (folder / "generation_config.json").write_text(json.dumps(told))
    return folder


@pytest.fixture
def world(tmp_path, local_root):
    build_model(tmp_path / "plain")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    return tmp_path / "plain", write_tokens(tmp_path / "data", tokenizer, chat_rows(50))


@pytest.mark.parametrize("name", TOLD)
def test_a_model_loads_and_saves_with_any_settings_of_its_base(tmp_path, name, tiny_model):
    folder = with_settings(Path(shutil.copytree(tiny_model, tmp_path / "model")), TOLD[name])
    load(AutoModelForCausalLM, folder, "32")
    load_reduced(AutoModelForCausalLM, folder).save_pretrained(tmp_path / "saved")
    AutoModelForCausalLM.from_pretrained(folder, **generation_tokens(folder))
    assert settings_in(folder) == TOLD[name]


def test_the_files_that_are_stored_with_a_model_read_its_settings_alike():
    """They import nothing of this project, so each repeats what the steps do."""
    read = [inspect.getsource(module.generation_tokens) for module in (pyfunc_model, served_texts)]
    assert read[0] == read[1]
    for name in ("TOKENS", "NEVER_WRITTEN"):
        told = [getattr(module, name) for module in (generation_settings, pyfunc_model, served_texts)]
        assert told == [told[0]] * 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["temperature", "early stopping", "several answers", "sampling"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_training_ends_and_the_settings_travel_on(world, tmp_path, name, lora):
    plain, data = world
    model = as_imported(with_settings(plain, TOLD[name]), tmp_path / "model")
    settings = settings_with({"max_steps": 2}, lora={"apply_lora": lora}, checkpoints={"save_steps": 1})
    train(settings, model, data, tmp_path / "out")
    merge_adapter(model, tmp_path / "out/tuned", tmp_path / "merged")
    tuned = tmp_path / ("merged" if lora else "out/tuned")
    assert kept(TOLD[name], tuned)
    load(AutoModelForCausalLM, tuned, "32")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["temperature", "early stopping", "several answers"])
def test_a_training_by_preferences_ends_as_well(world, tmp_path, name):
    plain, _ = world
    told = {**TOLD[name], "eos_token_id": 2}
    model = as_imported(with_settings(plain, told), tmp_path / "model")
    data = prepared_pairs(model, tmp_path / "pairs", pair_rows(60))
    given = settings_with({"max_steps": 2}, preference=PreferenceMethod(method="dpo"))
    train(given, model, data, tmp_path / "out")
    assert kept(told, tmp_path / "out/tuned")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["length penalty", "temperature", "several answers"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("own_file", [True, False])
def test_an_encoder_decoder_ends_as_well(tmp_path, local_root, name, lora, own_file):
    build_t5(tmp_path / "plain")
    file = tmp_path / "plain" / ("generation_config.json" if own_file else "config.json")
    before = json.loads(file.read_text())
    if not own_file:
        if name == "several answers":
            pytest.skip("transformers itself reads these from config.json, and refuses them")
        (tmp_path / "plain/generation_config.json").unlink()
    file.write_text(json.dumps({**before, **TOLD[name]}))
    model = as_imported(tmp_path / "plain", tmp_path / "model")
    data = prepared_texts(model, tmp_path / "texts", "t5")
    train(settings_with({"max_steps": 2}, kind="seq2seq_lm", lora={"apply_lora": lora}), model, data, tmp_path / "out")
    merge_adapter(model, tmp_path / "out/tuned", tmp_path / "merged")
    tuned = tmp_path / ("merged" if lora else "out/tuned")
    found = json.loads((tuned / "generation_config.json").read_text())
    assert {key: found.get(key) for key in TOLD[name]} == TOLD[name]
    assert found["decoder_start_token_id"] == 0
    form = {"prompt_form": ("", ""), "max_length": 32, "max_new_tokens": 4, "num_beams": 1}
    assert len(Model(tuned, form).predict(["red fox"])) == 1
