"""What merge_adapter refuses: each with its code, and nothing is left behind."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import build_model
from merge_inputs import as_artifact, change_settings, change_tensors, make_adapter, refused

from steps.errors import NumericError, Outage, UserError
from steps.merge_adapter.device_map import check_device_map
from steps.merge_adapter.step import merge_adapter


@pytest.mark.parametrize("kind", ["ADALORA", "P_TUNING", "PREFIX_TUNING", "OFT", "VERA", "SOMETHING_NEW"])
def test_other_kinds_of_adapter_are_refused_by_name(kind, good):
    refused(good[0], change_settings(good[1], peft_type=kind), "MERGE-E0107", kind)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("lora_bias", True),
        ("layer_replication", [[0, 1], [0, 2]]),
        ("megatron_config", {"a": 1}),
        ("target_parameters", ["mlp.experts.gate_up_proj"]),
        ("alora_invocation_tokens", [1]),
        ("arrow_config", {"top_k": 1}),
        ("kasa_config", {"beta": 1}),
        ("use_bdlora", {"nblocks": 2}),
        ("use_qalora", True),
        ("setting_of_the_future", "on"),
    ],
)
def test_settings_that_change_what_an_adapter_computes_are_refused_by_name(setting, value, good):
    refused(good[0], change_settings(good[1], **{setting: value}), "MERGE-E0108", setting)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "loftq", "corda", "lora_ga", "mica"])
def test_adapters_that_changed_their_base_first_are_refused(start, good):
    refused(good[0], change_settings(good[1], init_lora_weights=start), "MERGE-E0109", start)


def test_settings_of_every_ordinary_adapter_of_this_peft_are_understood(bases, tmp_path):
    from peft import LoraConfig

    from steps.adapters.settings import REFUSED
    from steps.kinds.adapters import ADAPTER_KINDS

    assert set(LoraConfig(task_type="CAUSAL_LM").to_dict()) <= ADAPTER_KINDS["lora"].understood | REFUSED.keys()


def test_all_refusals_are_told_at_once(good):
    text = refused(good[0], change_settings(good[1], lora_bias=True, init_lora_weights="pissa"), "MERGE-E0108")
    assert "MERGE-E0109" in text


def test_lora_on_tied_embeddings_is_refused(bases, tmp_path):
    # PEFT merges it into both ends of the model: the logits of its merged model are far from the tuned one's.
    adapter = make_adapter(bases("tied"), tmp_path / "adapter", target_modules=["embed_tokens", "q_proj"])
    refused(bases("tied"), adapter, "MERGE-E0208", "model.embed_tokens")


def test_untying_embeddings_is_refused(bases, tmp_path):
    adapter = make_adapter(bases("tied"), tmp_path / "adapter", modules_to_save=["lm_head"])
    refused(bases("tied"), adapter, "MERGE-E0208", "ensure_weight_tying")


def test_an_adapter_of_another_base_is_refused_by_digest(good, tmp_path):
    base = as_artifact(good[0], tmp_path / "base", "model")
    adapter = as_artifact(good[1], tmp_path / "of-another", "adapter", {"inputs": {"model": "0" * 64}})
    refused(base, adapter, "MERGE-E0201", "0" * 12)


def test_an_adapter_of_another_shape_is_refused(good, tmp_path):
    build_model(tmp_path / "other", hidden_size=32)
    refused(tmp_path / "other", good[1], "MERGE-E0205", "shape")


def test_an_adapter_of_another_architecture_is_refused(good, bases):
    refused(bases("gpt2"), good[1], "MERGE-E0203", "model.layers.0.self_attn.q_proj, which the base does not have")


def test_a_resized_vocabulary_is_refused(bases, tmp_path):
    adapter = make_adapter(bases("untied"), tmp_path / "adapter", modules_to_save=["embed_tokens", "lm_head"])
    build_model(tmp_path / "larger", tie_word_embeddings=False, attention_bias=True, vocab_size=400)
    refused(tmp_path / "larger", adapter, "MERGE-E0205", "vocabulary")


def test_an_adapter_with_names_that_peft_would_pass_over_is_refused(good):
    # PEFT warns and merges nothing: the merged model would be the base.
    doubled = {"base_model.model.": "base_model.model.base_model.model."}
    change_tensors(good[1], lambda old: {k.replace(*next(iter(doubled.items()))): v for k, v in old.items()})
    refused(good[0], good[1], "MERGE-E0203", "(4 like this)")


def test_weights_with_an_adapter_name_in_them_are_refused(good):
    change_tensors(good[1], lambda old: {k.replace(".weight", ".default.weight"): v for k, v in old.items()})
    refused(good[0], good[1], "MERGE-E0202", ".default.weight")


def test_weights_that_target_modules_does_not_name_are_refused(good):
    refused(good[0], change_settings(good[1], target_modules=["q_proj"]), "MERGE-E0206", "v_proj")


def test_half_a_pair_is_refused(good):
    change_tensors(good[1], lambda old: dict(list(old.items())[1:]))
    refused(good[0], good[1], "MERGE-E0204", "lora_B")


def test_a_rank_that_is_not_the_weights_is_refused(good):
    refused(good[0], change_settings(good[1], r=8), "MERGE-E0205", "the rank 8")


@pytest.mark.parametrize("settings", [{"r": None}, {"lora_alpha": "big"}, {"rank_pattern": {"(": 3}}, {"r": 0}])
def test_broken_settings_are_refused(settings, good):
    refused(good[0], change_settings(good[1], **settings), "MERGE-E0106", "adapter_config.json")


def test_settings_that_are_no_json_are_refused(good):
    (good[1] / "adapter_config.json").write_text("{")
    refused(*good, "MERGE-E0106", "adapter_config.json")


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    "name", ["config.json", "adapter_config.json", "model.safetensors.index.json", "tokenizer.json"]
)
def test_a_file_that_is_too_large_to_be_read_is_refused_before_it_is_read(good, which, name, tmp_path):
    folders = shutil.copytree(good[0], tmp_path / "base"), good[1]
    with open(folders[which] / name, "ab") as file:
        file.truncate(2**28)
    refused(*folders, "MODEL-E0118", name)


def test_settings_that_are_nested_too_deep_are_refused(good):
    (good[1] / "adapter_config.json").write_text('{"r": ' + "[" * 100_000)
    refused(*good, "MERGE-E0106", "nested too deeply")
    with pytest.raises(UserError, match="MERGE-E0112"):
        check_device_map("[" * 100_000)


def test_a_quantised_base_is_refused(good, tmp_path):
    shutil.copytree(good[0], tmp_path / "base")
    config = json.loads((tmp_path / "base/config.json").read_text())
    (tmp_path / "base/config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    refused(tmp_path / "base", good[1], "MERGE-E0110")


def test_a_cut_file_is_refused(good):
    weights = good[1] / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    refused(*good, "MERGE-E0103", "adapter_model.safetensors")


def test_a_missing_shard_is_refused(bases, tmp_path):
    adapter = make_adapter(bases("sharded"), tmp_path / "adapter")
    shutil.copytree(bases("sharded"), tmp_path / "base")
    gone = sorted((tmp_path / "base").glob("*.safetensors"))[1]
    gone.unlink()
    refused(tmp_path / "base", adapter, "MERGE-E0104", gone.name)


def test_changed_bytes_of_an_artifact_are_noticed(good, tmp_path):
    base = as_artifact(good[0], tmp_path / "base", "model")
    weights = base / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    refused(base, good[1], "ARTIFACT-E0101", "model.safetensors", Outage)


def test_folders_that_are_none_of_both_are_refused(good, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "gone", good[1], "MERGE-E0101", "no such folder")
    refused(tmp_path / "empty", good[1], "MERGE-E0101", "no config.json")
    refused(good[0], tmp_path / "empty", "MERGE-E0102", "no adapter_config.json and no adapter_model.safetensors")
    (good[1] / "adapter_model.safetensors").rename(good[1] / "adapter_model.bin")
    refused(*good, "MERGE-E0102", "convert adapter_model.bin")


@pytest.mark.parametrize("place", ["base", "adapter", "."])
def test_output_never_replaces_an_input(place, good, tmp_path):
    shutil.copytree(good[0], tmp_path / "base")
    with pytest.raises(UserError, match="MERGE-E0105"):
        merge_adapter(tmp_path / "base", good[1], tmp_path / place)
    assert (tmp_path / "base/model.safetensors").exists()


def test_an_adapter_that_was_never_trained_is_refused(bases, tmp_path):
    refused(bases("tied"), make_adapter(bases("tied"), tmp_path / "adapter", scale=0.0), "MERGE-E0301", "zeros")


def test_a_change_that_rounding_swallows_is_noticed(bases, tmp_path):
    adapter = make_adapter(bases("bfloat16"), tmp_path / "adapter")
    change_tensors(adapter, lambda old: {k: v * (1e-9 if "lora_B" in k else 1) for k, v in old.items()})
    refused(bases("bfloat16"), adapter, "MERGE-E0302", "BF16", NumericError)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30])
def test_values_that_are_not_finite_stop_the_merge(value, bases, tmp_path):
    adapter = make_adapter(bases("float16"), tmp_path / "adapter")

    def poison(old: dict) -> dict:
        old["base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"][3, 1] = value
        return old

    refused(bases("float16"), change_tensors(adapter, poison), "MERGE-E0303", "layers.1.mlp.down_proj", NumericError)


def test_rows_of_an_embedding_that_is_changed_otherwise_too_are_refused(bases, tmp_path):
    base = bases("untied")
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["embed_tokens"], save_embedding_layers=False)
    other = make_adapter(base, tmp_path / "other", trainable_token_indices=[1, 2])
    _join(adapter, other, tmp_path / "both")
    refused(base, change_settings(tmp_path / "both", trainable_token_indices=[1, 2]), "MERGE-E0209", "embed_tokens")


def test_rows_that_the_settings_do_not_name_are_refused(bases, tmp_path):
    base = bases("untied")
    adapter = make_adapter(base, tmp_path / "adapter", trainable_token_indices=[1, 2])
    refused(base, change_settings(adapter, trainable_token_indices=[1]), "MERGE-E0205", "trainable_tokens_delta")
    refused(base, change_settings(adapter, trainable_token_indices=[1, 100_000]), "MERGE-E0205", "2 of the 355 rows")


def _join(one: Path, other: Path, target: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(one, target)
    name = "adapter_model.safetensors"
    rows = {key: tensor for key, tensor in load_file(other / name).items() if "trainable_tokens" in key}
    save_file(load_file(one / name) | rows, target / name)
