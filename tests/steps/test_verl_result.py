"""The tuned model of a training with verl: joined, merged, and proved to be another one than the base."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_inputs import as_imported
from verl_runs import manifest_of, training

from steps.artifacts import read_manifest
from steps.errors import NumericError, Outage, SecurityRefusal, UserError
from steps.verl.checkpoints import ACTOR
from steps.verl.result import write_result
from steps.verl.shards import open_shards
from steps.verl.training import train_by_verl

pytestmark = pytest.mark.slow
HISTORY = {"steps": 4}


@pytest.fixture(scope="module")
def base(tiny_model, tmp_path_factory) -> Path:
    return as_imported(tiny_model, tmp_path_factory.mktemp("verl") / "model")


@pytest.fixture(scope="module")
def with_adapter(base, tmp_path_factory):
    """A training with LoRA, and its history."""
    one = training(tmp_path_factory.mktemp("lora"), base)
    return one, train_by_verl(one)


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    """A training of every weight, on three GPUs, which divide some tensors unevenly."""
    one = training(tmp_path_factory.mktemp("whole"), base, actor_model_lora_rank=0, trainer_n_gpus_per_node=3,
                   data_train_batch_size=6, actor_ppo_mini_batch_size=6, rows=24)  # fmt: skip
    train_by_verl(one)
    return one


def actor_of(one, step=4) -> Path:
    return one.checkpoints / f"global_step_{step}" / ACTOR


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: one for file in sorted(folder.glob("*.safetensors")) for name, one in load_file(file).items()}


def changed_copy(one, place: Path, change) -> Path:
    """A copy of the last checkpoint's actor whose first part was changed."""
    actor = Path(shutil.copytree(actor_of(one), place / "actor"))
    file = next(actor.glob("model_*_rank_0.pt"))
    part = torch.load(file, weights_only=False)
    change(part)
    torch.save(part, file)
    return actor


def test_an_adapter_is_merged_as_peft_merges_it_and_changes_the_base(with_adapter, base):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    one, _ = with_adapter
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), one.tuned)
    expected = adapted.merge_and_unload().state_dict()
    merged, before = tensors(one.merged), tensors(base)
    assert merged.keys() == before.keys()
    assert all(torch.equal(value, expected[name]) for name, value in merged.items())
    changed = [name for name, value in merged.items() if not torch.equal(value, before[name])]
    assert changed == [name for name in merged if name.endswith("proj.weight")]
    assert read_manifest(one.tuned).kind == "adapter"
    assert manifest_of(one.merged)["facts"]["changed_tensors"] == len(changed)


def test_the_adapter_has_the_scale_and_values_that_verl_trained(with_adapter):
    one, _ = with_adapter
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(one.tuned)
    assert (config.r, config.lora_alpha, config.task_type) == (4, 8, "CAUSAL_LM")
    values = [value for name, value in tensors(one.tuned).items() if "lora_B" in name]
    assert values
    assert all(torch.allclose(value, torch.full_like(value, 4 * 0.01)) for value in values)


def test_the_history_has_each_step_and_the_best_one_and_the_result_has_verls_configuration(with_adapter):
    one, history = with_adapter
    assert [point["step"] for point in history["points"]] == [1, 2, 3, 4]
    assert [point["loss"] for point in history["points"]] == [1, 1 / 2, 1 / 3, 1 / 4]
    assert history["points"][0]["reward"] == 0.5
    assert history["best"] is None  # the result is the last step
    assert (history["steps"], history["tokens"], history["resumed_from"]) == (4, 400, None)
    composed = (one.tuned / "verl_config.yaml").read_text("utf-8")
    assert "lora_rank: 4" in composed
    assert f"default_local_dir: {one.checkpoints}" in composed


def test_divided_weights_are_joined_in_the_types_and_files_of_the_base(whole, base):
    tuned, before = tensors(whole.tuned), tensors(base)
    assert tuned.keys() == before.keys()
    for name, value in before.items():
        moved = value.float()
        for steps in (2, 2):
            moved = moved + steps * 0.01
        assert torch.equal(tuned[name], moved.to(value.dtype)), name
    assert manifest_of(whole.merged)["same_as"] == "tuned"
    assert (whole.tuned / "config.json").read_bytes() == (base / "config.json").read_bytes()


def test_weights_that_equal_the_base_are_refused(whole, tmp_path):
    with pytest.raises(NumericError, match="VERL-E0603"):
        write_result(actor_of(whole), whole.tuned, whole.data, tmp_path / "tuned", HISTORY, {})
    assert not (tmp_path / "tuned").exists()


def test_an_adapter_of_zeros_is_refused(with_adapter, base, tmp_path):
    one, _ = with_adapter
    actor = Path(shutil.copytree(actor_of(one), tmp_path / "actor"))
    for file in actor.glob("model_*.pt"):
        part = torch.load(file, weights_only=False)
        for name, value in part.items():
            if "lora_B" in name:
                value.to_local().zero_()
        torch.save(part, file)
    with pytest.raises(NumericError, match="VERL-E0602"):
        write_result(actor, base, one.data, tmp_path / "tuned", HISTORY, {})


def test_infinite_weights_are_refused_with_their_name(whole, base, tmp_path):
    actor = changed_copy(whole, tmp_path, lambda part: part["model.norm.weight"].to_local().fill_(torch.inf))
    with pytest.raises(NumericError, match=r"VERL-E0601 step \d+: found 1 tensors .*, such as model\.norm\.weight"):
        write_result(actor, base, whole.data, tmp_path / "tuned", HISTORY, {})


def test_a_checkpoint_of_another_model_is_refused(whole, base, tmp_path):
    def rename(part):
        part["model.other.weight"] = part.pop("model.norm.weight")

    actor = Path(shutil.copytree(actor_of(whole), tmp_path / "actor"))
    for file in actor.glob("model_*.pt"):
        part = torch.load(file, weights_only=False)
        rename(part)
        torch.save(part, file)
    with pytest.raises(UserError, match=r"VERL-E0105 .*no model\.norm\.weight"):
        write_result(actor, base, whole.data, tmp_path / "tuned", HISTORY, {})


def test_parts_with_different_tensors_are_refused(whole, tmp_path):
    actor = changed_copy(whole, tmp_path, lambda part: part.pop("model.norm.weight"))
    with pytest.raises(Outage, match=r"VERL-E0401 .*model\.norm\.weight"):
        open_shards(actor)


def test_a_part_that_is_cut_off_is_told(whole, tmp_path):
    actor = Path(shutil.copytree(actor_of(whole), tmp_path / "actor"))
    file = next(actor.glob("model_*_rank_1.pt"))
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(Outage, match=r"VERL-E0403 .*rank_1"):
        open_shards(actor)


def test_a_pickle_that_would_run_code_is_not_opened(whole, tmp_path):
    class Code:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    actor = changed_copy(whole, tmp_path, lambda part: part.update(code=Code()))
    with pytest.raises(SecurityRefusal, match="VERL-E0301"):
        open_shards(actor)
    assert not (tmp_path / "ran").exists()


def test_an_adapter_without_its_scale_is_refused(with_adapter, base, tmp_path):
    one, _ = with_adapter
    actor = Path(shutil.copytree(actor_of(one), tmp_path / "actor"))
    (actor / "lora_train_meta.json").write_text('{"r": 4, "lora_alpha": 0}')  # what verl's own merger assumes
    with pytest.raises(Outage, match="VERL-E0404"):
        write_result(actor, base, one.data, tmp_path / "tuned", HISTORY, {})


def test_the_prepared_chat_template_is_written_with_the_model(with_adapter, base, tmp_path):
    from steps.models.chat_templates import STORED

    one, _ = with_adapter
    data = tmp_path / "data"
    data.mkdir()
    (data / STORED).write_text("{{ messages[0]['content'] }}")
    write_result(actor_of(one), base, data, tmp_path / "tuned", HISTORY, replace(one).lineage)
    assert (tmp_path / "tuned" / "chat_template.jinja").read_text() == "{{ messages[0]['content'] }}"
