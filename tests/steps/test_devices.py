"""A pod that requested GPUs does not train on the CPU."""

from pathlib import Path

import pytest

from steps.errors import OutOfResources
from steps.evaluate.step import evaluate
from steps.finetune.step import finetune
from steps.launch.devices import refuse_missing_gpus, refuse_shared_gpus
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


@pytest.mark.parametrize(("processes", "seen"), [(2, 1), (4, 3)])
def test_processes_do_not_share_a_gpu(gpus, processes, seen):
    gpus(seen)
    with pytest.raises(OutOfResources, match=f"RESOURCE-E0502 GPUs: found {seen} for {processes} training processes"):
        refuse_shared_gpus(processes)
    for enough in (0, processes):
        gpus(enough)
        refuse_shared_gpus(processes)


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


def test_the_facts_of_amd_are_told_as_those_of_nvidia(gpus, monkeypatch, tmp_path):
    from steps.launch import devices

    version = tmp_path / "version"
    version.write_text("6.8.5\n")
    monkeypatch.setattr(devices, "DRIVERS", {"": str(tmp_path / "nvidia"), "amdgpu ": str(version)})
    monkeypatch.setattr("torch.version.hip", "6.3.1", raising=False)
    monkeypatch.setattr("torch.version.cuda", None)
    for name in devices.VISIBLE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "0,1")
    gpus(0)
    with pytest.raises(OutOfResources) as caught:
        refuse_missing_gpus(2)
    for fact in ("is built for ROCm 6.3.1", "driver: amdgpu 6.8.5", "visible devices: 0,1"):
        assert fact in str(caught.value)


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


@pytest.mark.parametrize(("major", "expected"), [(7, "float16"), (8, "bfloat16"), (9, "bfloat16")])
def test_sixteen_bits_are_bfloat16_only_where_the_gpu_computes_with_it(monkeypatch, major, expected):
    import torch

    from steps.finetune.arguments import sixteen_bit_type

    # A card of the generation before bfloat16 (T4, V100) can store it: torch emulates the rest.
    card = type("Card", (), {"major": major})
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _device: card)
    monkeypatch.setattr("torch.cuda._check_bf16_tensor_supported", lambda _device: True)
    assert torch.cuda.is_bf16_supported()
    assert sixteen_bit_type() == expected


def test_float16_may_leave_out_steps_whose_gradients_overflow_but_not_all(tmp_path):
    import torch
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from steps.errors import NumericError
    from steps.finetune.finite import HALVINGS, Finite

    def logged(watcher: Finite, fp16: bool, **logs) -> None:
        arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
        arguments.fp16 = fp16  # transformers accepts it with a GPU only
        watcher.on_log(arguments, TrainerState(), TrainerControl(), logs)

    watcher, overflow = Finite(), float("inf")
    scaler = torch.amp.GradScaler("cpu")  # torch's own, of an overflow in every step until the scale is 1
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer, steps = torch.optim.SGD([weight]), 0
    while scaler.get_scale() > 1:
        weight.grad = None
        scaler.scale(weight.sum()).backward()
        weight.grad.fill_(overflow)
        scaler.step(optimizer)
        scaler.update()
        steps += 1
        logged(watcher, True, loss=2.0, grad_norm=overflow)
    assert (steps, weight.item()) == (16, 1.0)
    logged(watcher, True, loss=2.0, grad_norm=1.0)
    for _ in range(HALVINGS):
        logged(watcher, True, loss=2.0, grad_norm=overflow)
    with pytest.raises(NumericError, match="grad_norm=inf"):
        logged(watcher, True, loss=2.0, grad_norm=overflow)
    for fp16, logs in ((True, {"loss": overflow}), (False, {"loss": 2.0, "grad_norm": overflow})):
        with pytest.raises(NumericError):
            logged(Finite(), fp16, **logs)


def test_the_history_has_no_number_that_json_does_not_have():
    from transformers import TrainerState

    from steps.finetune.watching import history_of

    entry = {"step": 1, "epoch": 0.1, "loss": 2.0, "learning_rate": 1e-3}
    state = TrainerState(log_history=[{**entry, "grad_norm": float("inf")}, {**entry, "grad_norm": 1.5}])
    assert [point["grad_norm"] for point in history_of(state)["points"]] == [None, 1.5]
