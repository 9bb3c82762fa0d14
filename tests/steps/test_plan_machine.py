"""The plan compares the memory of training with the machine, and says how long training takes and what it costs."""

import json
import shutil

import pytest
from conftest import chat_rows, write_jsonl

from steps.errors import UserError
from steps.plan import room, strategy
from steps.plan.memory import HEADROOM, MemoryEstimate
from steps.plan.need import GIB
from steps.plan.step import plan

LLAMA_8B = {"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336, "vocab_size": 384}
A100 = "Standard_NC24ads_A100_v4"


@pytest.fixture
def given(tiny_model, tmp_path):
    rows = write_jsonl(tmp_path / "rows.jsonl", chat_rows(60))
    return {"pytorch_model_path": str(tiny_model), "train_file_path": str(rows), "mlflow_server_uri": "http://m"}


@pytest.fixture
def large(given, monkeypatch):
    """A model whose weights count as eight billion parameters."""
    from steps.plan.sources import ModelFound

    monkeypatch.setattr(ModelFound, "parameters", property(lambda self: 8_030_000_000))
    return given


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A local run on a machine with the given memory in GiB."""

    def make(processor: float, gpu: float = 0) -> None:
        monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
        monkeypatch.setattr(room, "memory_here", lambda: int(processor * GIB))
        monkeypatch.setattr(room, "gpu_memory_here", lambda: int(gpu * GIB))

    return make


def planned(given, tmp_path, **changes) -> dict:
    shutil.rmtree(tmp_path / "plan", ignore_errors=True)
    plan("chat_completion", {**given, **changes}, tmp_path / "plan", tmp_path / "plan.html")
    return json.loads((tmp_path / "plan/plan.json").read_text())


def refusal(given, tmp_path, **changes) -> str:
    with pytest.raises(UserError) as caught:
        planned(given, tmp_path, **changes)
    assert len(caught.value.problems) == 1
    return str(caught.value)


def warned(told: dict) -> list[str]:
    return [warning for warning in told["warnings"] if "is expected to need" in warning]


# Memory


def test_weights_that_cannot_fit_into_the_gpu_that_was_asked_for_are_refused(large, tmp_path):
    told = refusal(large, tmp_path, instance_type_finetune=A100)
    # 16 bytes for each parameter, in GiB.
    assert told.startswith("PLAN-E0365 instance_type_finetune: found 119.7 GiB of weights, gradients and optimizer")
    assert "for the 80.0 GiB of one GPU of instance_type_finetune" in told
    assert "it would fit with apply_lora=true and precision=16; or with apply_lora=true, precision=16 and" in told
    told = planned(large, tmp_path, instance_type_finetune=A100, apply_lora=True, precision="16")
    assert warned(told) == []
    assert told["memory"]["available_in"] == "one GPU of instance_type_finetune"


@pytest.mark.parametrize("optimizer", ["adafactor", "sgd", "galore_adamw"])
def test_an_optimizer_with_fewer_states_is_not_refused_for_those_of_another(large, tmp_path, optimizer):
    # At least 8 bytes for each parameter: 59.8 GiB.
    assert planned(large, tmp_path, instance_type_finetune=A100, optim=optimizer)


def test_on_a_laptop_too_the_machine_that_was_asked_for_counts(large, tmp_path, here):
    here(16)
    assert "for the 80.0 GiB of one GPU" in refusal(large, tmp_path, instance_type_finetune=A100)
    told = planned(large, tmp_path, instance_type_finetune=A100, apply_lora=True, precision="16")
    assert told["memory"]["available_bytes"] == pytest.approx(80 * 0.9 * GIB, rel=0.01)
    (warning,) = warned(told)
    assert "14.4 GiB of this machine are usable" in warning


@pytest.mark.parametrize(
    ("gpus", "processor", "gpu", "what"),
    [
        (0, 16, 0, "16.0 GiB of this machine;"),
        (0, 16, 80, "16.0 GiB of this machine;"),
        (1, 16, 0, "16.0 GiB of this machine;"),  # without a GPU it trains on the processor
        (1, 256, 80, "80.0 GiB of this machine's GPU;"),
    ],
)
def test_without_a_named_machine_a_local_run_needs_room_here(large, tmp_path, here, gpus, processor, gpu, what):
    here(processor, gpu)
    told = refusal(large, tmp_path, number_of_gpu_to_use_finetuning=gpus)
    assert told.startswith("PLAN-E0365 number_of_gpu_to_use_finetuning: found 119.7 GiB of weights")
    assert what in told
    assert "plan for it with instance_type_finetune" in told


def test_on_a_cluster_training_on_processors_needs_room_in_their_memory(large, tmp_path, monkeypatch):
    monkeypatch.delenv("FINETUNE_ROOT", raising=False)
    told = refusal(large, tmp_path, number_of_gpu_to_use_finetuning=0, instance_type_finetune="Standard_d12_v2")
    assert "for the 23.0 GiB of instance_type_finetune" in told


def test_activations_that_probably_do_not_fit_are_warned_of(given, tmp_path, here, monkeypatch):
    def large(*_given, gpu_memory, **_named):
        usable = int(gpu_memory * GIB * HEADROOM) or None
        return MemoryEstimate({"weights": 4 * GIB, "activations": 900 * GIB}, usable, least=4 * GIB)

    monkeypatch.setattr(strategy, "estimate", large)
    here(16)
    (warning,) = warned(planned(given, tmp_path, number_of_gpu_to_use_finetuning=0))
    assert warning.startswith("finetune is expected to need 904.0 GiB, but 14.4 GiB of this machine are usable")
    here(0)  # a system that does not tell
    assert warned(planned(given, tmp_path, number_of_gpu_to_use_finetuning=0)) == []


def test_an_unknown_size_of_gpu_is_not_compared(large, tmp_path):
    told = planned(large, tmp_path, instance_type_finetune="cpu=8,memory=64Gi,gpu=nvidia.com/gpu")
    assert (told["memory"]["available_bytes"], warned(told)) == (None, [])


def test_the_machine_is_asked_for_its_memory(tmp_path, monkeypatch):
    from steps.plan import machine

    whole = machine.memory_here.__wrapped__()
    assert GIB / 4 < whole < 2**50
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "LIMIT", limit)
    limit.write_text(f"{GIB // 8}\n")
    assert machine.memory_here.__wrapped__() == GIB // 8
    limit.write_text("max\n")
    assert machine.memory_here.__wrapped__() == whole
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho 81559\necho 40960\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert machine.gpu_memory_here.__wrapped__() == 40960 * 2**20
    command.write_text("#!/bin/sh\necho no driver\nexit 9\n")
    assert machine.gpu_memory_here.__wrapped__() == 0
    # As rocm-smi 6 answers for an MI300X and a smaller card.
    amd = tmp_path / "rocm-smi"
    cards = {"card0": {"VRAM Total Memory (B)": "205822885888", "VRAM Total Used Memory (B)": "297"},
             "card1": {"VRAM Total Memory (B)": "68702699520"}, "system": {"Driver version": "6.8.5"}}  # fmt: skip
    amd.write_text(f"#!/bin/sh\ncat <<'E'\n{json.dumps(cards)}\nE\n")
    amd.chmod(0o755)
    assert machine.gpu_memory_here.__wrapped__() == 68702699520
    amd.write_text("#!/bin/sh\necho WARNING: no card\n")
    assert machine.gpu_memory_here.__wrapped__() == 0


# Time and cost


def lines(told: dict) -> dict[str, tuple]:
    return {line["name"]: (line["value"], line["how"]) for line in told["arithmetic"]}


def test_time_and_cost_follow_from_throughput_and_price(given, tmp_path):
    file = tmp_path / "rows.jsonl"
    size = file.stat().st_size
    told = planned(given, tmp_path, num_train_epochs=3, tokens_per_second=2, price_per_hour=36)
    tokens = size * 48 / 60 / 4 * 3
    assert told["estimate"]["tokens"] == pytest.approx(tokens, abs=1)
    assert told["estimate"]["seconds"] == pytest.approx(tokens / 2, abs=1)
    assert told["estimate"]["cost"] == pytest.approx(tokens / 2 / 100, abs=0.01)
    assert lines(told)["training time"][0] == f"about {told['estimate']['seconds'] / 60:.0f} min"
    assert lines(told)["training time"][1].startswith("an estimate of the training alone: about ")
    assert lines(told)["training cost"] == (
        f"about {told['estimate']['cost']:.3g}",
        "an estimate: time × price_per_hour",
    )
    report = (tmp_path / "plan.html").read_text()
    assert "training time" in report
    assert "training cost" in report


def test_what_is_not_stated_is_unknown_and_the_parameter_is_named(given, tmp_path):
    told = planned(given, tmp_path)
    assert lines(told)["training time"][0] == "unknown"
    assert "set tokens_per_second" in lines(told)["training time"][1]
    assert "training cost" not in lines(told)
    assert lines(planned(given, tmp_path, price_per_hour=3.5))["training cost"][0] == "unknown"
    assert told["estimate"]["seconds"] is None


def test_steps_count_whole_rows_of_at_most_the_longest_length(given, tmp_path):
    told = planned(given, tmp_path, max_steps=5, per_device_train_batch_size=4, max_seq_length=8, tokens_per_second=160)
    assert told["estimate"] == {"tokens": 8 * 4 * 5, "seconds": 1.0, "cost": None}
    assert lines(told)["training time"][0] == "about 1 s"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (9000, "2.5 h")]
)
def test_times_are_told_in_fitting_units(seconds, words):
    from steps.plan.duration import _in_words

    assert _in_words(seconds) == words
