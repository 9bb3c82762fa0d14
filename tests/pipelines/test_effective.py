"""What result.json and a registered version tell of the parameters is what trained; for whole runs see test_local."""

import json
from pathlib import Path

import pytest
from conftest import chat_rows, write_jsonl
from input_adapters import make_adapter

from pipelines.local import LocalRun
from pipelines.runs import _effective
from steps import wire
from steps.params.reading import read_parameters
from steps.params.settings import FinetuneSettings, RegistrationSettings
from steps.plan.step import plan


@pytest.fixture(scope="module")
def given(tiny_model, tmp_path_factory):
    rows = write_jsonl(tmp_path_factory.mktemp("rows") / "chat.jsonl", chat_rows(60))
    return {
        "pytorch_model_path": str(tiny_model),
        "train_file_path": str(rows),
        "number_of_gpu_to_use_finetuning": 0,
        "max_seq_length": 64,
    }


def in_total(folder: Path, base: Path) -> tuple[dict, dict]:
    """A batch by its total: the plan splits it, and the learning rate follows."""
    asked = {"total_train_batch_size": 12, "max_per_device_train_batch_size": 5, "lr_batch_size_scaling": "linear"}
    changed = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "per_device_eval_batch_size": 4,
               "learning_rate": pytest.approx(12 * 2e-5)}  # fmt: skip
    return asked, changed


def of_deepspeed(folder: Path, base: Path) -> tuple[dict, dict]:
    """A DeepSpeed file with a batch, a clipping and a precision of its own, which win."""
    file = folder / "zero.json"
    file.write_text(json.dumps({
        "train_micro_batch_size_per_gpu": 3, "gradient_accumulation_steps": 2, "gradient_clipping": 0.5,
        "bf16": {"enabled": True}, "zero_optimization": {"stage": 2},
    }))  # fmt: skip
    asked = {"apply_deepspeed": True, "deepspeed": str(file)}
    changed = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "max_grad_norm": 0.5}
    return asked, {**changed, "precision": "16"}


def of_an_adapter(folder: Path, base: Path) -> tuple[dict, dict]:
    """An adapter that is trained further brings its shape."""
    adapter = make_adapter(base, folder / "adapter")
    asked = {"adapter_path": str(adapter), "adapter_use": "continue"}
    return asked, {"apply_lora": True, "lora_r": 4, "lora_alpha": 8, "lora_target_modules": "q_proj,v_proj"}


@pytest.mark.parametrize("case", [in_total, of_deepspeed, of_an_adapter], ids=lambda case: case.__name__)
def test_effective_is_what_finetune_is_told_and_what_a_version_tells(case, given, tiny_model, tmp_path):
    asked, changed = case(tmp_path, tiny_model)
    asked = {**given, **asked, "mlflow_server_uri": "http://m"}
    made = plan("chat_completion", asked, tmp_path / "plan", tmp_path / "plan.html")
    record = {"step": "plan", "paths": {"plan": str(tmp_path / "plan")}, "error": None}
    reading = read_parameters("chat_completion", asked)
    effective = _effective(reading, LocalRun(tmp_path, records=[record]))
    assert {name: effective[name] for name in changed} == changed
    assert all(getattr(reading.parameters, name) != effective[name] for name in changed)
    told = FinetuneSettings.model_validate(wire.load(made.training))
    for group in (told.training, told.lora):
        values = group.model_dump(mode="json", exclude={"gradient_checkpointing"})  # auto: memory decides
        assert {name: effective[name] for name in values} == values
    assert RegistrationSettings.model_validate(wire.load(made.registration)).parameters == effective


def test_a_plan_that_refused_leaves_what_was_read(given, tmp_path):
    reading = read_parameters("chat_completion", given)
    refused = {"step": "plan", "error": {"code": 2}}
    assert _effective(reading, LocalRun(tmp_path, records=[refused]))["optim"] == "adamw_torch"


def test_a_plan_that_was_reused_is_read_where_it_lies(given, tmp_path):
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "plan.json").write_text(json.dumps({"effective": {"learning_rate": 1.0}}))
    done = LocalRun(tmp_path, outputs={"plan": str(tmp_path / "plan")})
    assert _effective(read_parameters("chat_completion", given), done) == {"learning_rate": 1.0}
