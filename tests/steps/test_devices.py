"""A pod that requested GPUs does not train on the CPU."""

from pathlib import Path

import pytest

from steps.errors import OutOfResources
from steps.evaluate.step import evaluate
from steps.finetune.step import finetune
from steps.launch.devices import refuse_missing_gpus
from steps.params.settings import EvaluationSettings, FinetuneSettings
from steps.plan.deciding import decide
from steps.plan.settings import settings_of

NOWHERE = Path("nowhere")


@pytest.fixture
def gpus(monkeypatch):
    """Let torch see this many GPUs."""

    def see(count: int) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: count > 0)
        monkeypatch.setattr("torch.cuda.device_count", lambda: count)

    return see


@pytest.fixture(autouse=True)
def on_a_cluster(monkeypatch):
    monkeypatch.delenv("FINETUNE_ROOT", raising=False)


@pytest.mark.parametrize(("requested", "seen"), [(1, 0), (2, 1), (8, 7)])
def test_fewer_gpus_than_requested_end_the_step_with_what_torch_sees(gpus, monkeypatch, requested, seen):
    gpus(seen)
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "GPU-1")
    with pytest.raises(OutOfResources) as caught:
        refuse_missing_gpus(requested)
    told = str(caught.value)
    assert caught.value.as_json("finetune")["code"] == 5
    assert f"found {seen} that torch can use" in told
    assert f"expected {requested}, as the pod requested" in told
    for fact in ("torch 2.", "driver:", "visible devices: GPU-1"):
        assert fact in told


@pytest.mark.parametrize(("requested", "seen"), [(0, 0), (1, 1), (1, 8)])
def test_enough_gpus_are_accepted(gpus, requested, seen):
    gpus(seen)
    refuse_missing_gpus(requested)


def test_a_run_on_this_machine_uses_what_there_is(gpus, monkeypatch, tmp_path):
    gpus(0)
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path))
    refuse_missing_gpus(1)


def test_training_and_evaluation_check_before_they_read_anything(gpus):
    gpus(0)
    with pytest.raises(OutOfResources):
        finetune(FinetuneSettings(pipeline="chat_completion", gpus=1), *[NOWHERE] * 5)
    with pytest.raises(OutOfResources):
        evaluate(EvaluationSettings(task="chat_completion", gpus=1), *[NOWHERE] * 6)


@pytest.mark.parametrize(("asked", "training", "evaluation"), [(0, 0, 0), (1, 1, 1)])
def test_the_plan_hands_on_what_the_pods_request(tiny_model, chat_file, asked, training, evaluation):
    given = {"pytorch_model_path": str(tiny_model), "train_file_path": str(chat_file), "mlflow_server_uri": "http://m",
             "number_of_gpu_to_use_finetuning": asked, "min_train_rows": 1}  # fmt: skip
    made = settings_of(decide("chat_completion", given))
    assert made["training"].model_dump()["gpus"] == training
    assert made["evaluation"].model_dump()["gpus"] == evaluation
