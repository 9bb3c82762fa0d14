"""Evaluate requests as many GPUs as the model needs, and other tasks are told a machine that is large enough."""

import json
from dataclasses import replace

import pytest
from test_plan_requests import grown, planned_there

from steps.params.compute import CLUSTER
from steps.plan import deciding
from steps.plan.evaluation_gpus import gpus_needed
from steps.plan.need import GIB
from steps.plan.summary import as_text, summary_of

TYPES = {
    "four": {"cpu": 40, "memory": 400, "gpus": 4, "gpu_memory": 24},
    "large": {"cpu": 40, "memory": 400, "gpus": 2, "gpu_memory": 80},
    "plain": {"cpu": 8, "memory": 4},
    "roomy": {"cpu": 8, "memory": 48},
}
LARGE = {"number_of_gpu_to_use_finetuning": 1, "instance_type_finetune": "large", "apply_lora": True, "precision": "16"}


@pytest.fixture
def base(tiny_model, monkeypatch):
    monkeypatch.delenv("FINETUNE_ROOT", raising=False)
    monkeypatch.setenv(CLUSTER, json.dumps({"instance_types": TYPES, "node_selector": {}}))
    return tiny_model


@pytest.mark.parametrize(
    ("gigabytes", "gpus", "cpu"),
    [
        (8, "1", "9"),  # 2 billion weights: 3.7 GiB in 16 bit
        (80, "2", "18"),  # 20 billion: 37.3 GiB, of 21.6 on each GPU
        (120, "3", "27"),
    ],
)
def test_as_many_gpus_are_requested_as_hold_the_model(base, chat_file, monkeypatch, gigabytes, gpus, cpu):
    grown(monkeypatch, gigabytes)
    made = planned_there(base, chat_file, **LARGE, instance_type_model_evaluation="four")
    found = made.hardware["evaluate"]
    assert (found.gpu_count, found.gpu_type) == (gpus, "nvidia.com/gpu")
    assert int(found.cpu) <= int(cpu)
    where = "on a GPU" if gpus == "1" else f"on {gpus} GPUs"
    assert where in as_text(summary_of(made))
    assert not [note for note in made.warnings if "instance_type_model_evaluation: evaluate is" in note]


def test_a_model_that_no_machine_of_the_type_holds_is_warned_of(base, chat_file, monkeypatch):
    grown(monkeypatch, 240)  # 111.8 GiB in 16 bit, of 4 × 21.6
    made = planned_there(base, chat_file, **LARGE, instance_type_model_evaluation="four", load_in_4bit=True)
    assert made.hardware["evaluate"].gpu_count == "4"
    (told,) = [note for note in made.warnings if note.startswith("instance_type_model_evaluation: evaluate is")]
    assert "86.4 GiB of its 4 GPUs are usable: name a larger one, such as large" in told


def test_a_written_number_of_gpus_stays(base, chat_file, monkeypatch):
    grown(monkeypatch, 80)
    written = "cpu=8,memory=64Gi,gpu=nvidia.com/gpu,gpus=1,gpu_memory=24Gi"
    made = planned_there(base, chat_file, **LARGE, instance_type_model_evaluation=written)
    assert made.hardware["evaluate"].gpu_count == "1"
    assert [note for note in made.warnings if "of its GPU are usable" in note]


def test_without_gpus_none_is_requested(base, chat_file, monkeypatch):
    grown(monkeypatch, 1)
    assert planned_there(base, chat_file).hardware["evaluate"].gpu_count == "0"


@pytest.mark.parametrize(("size", "gpus"), [(1, 1), (21 * GIB, 1), (22 * GIB, 2), (44 * GIB, 3)])
def test_gpus_are_counted_by_their_usable_memory(size, gpus):
    assert gpus_needed(size, 24) == gpus


def test_a_task_that_needs_more_than_its_machine_is_told_one_that_is_large_enough(base, chat_file, monkeypatch):
    real = deciding.needs_of

    def needs(seen, estimate):
        found = real(seen, estimate)
        return {**found, "import_model": replace(found["import_model"], least=20 * GIB)}

    monkeypatch.setattr(deciding, "needs_of", needs)
    made = planned_there(base, chat_file, instance_type_model_import="plain")
    (told,) = [note for note in made.warnings if note.startswith("instance_type_model_import:")]
    assert told.endswith("3Gi is its share of plain: name a larger one, such as standard_d12_v2")


@pytest.mark.parametrize(("gpus", "place"), [(0, None), (1, "cuda"), (2, "auto"), (8, "auto")])
def test_a_model_is_put_on_all_gpus_that_the_step_sees(tiny_model, monkeypatch, gpus, place):
    from steps.generation import loading

    asked = []

    class Model:
        def eval(self):
            return self

    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(loading, "load_reduced", lambda *_given, **how: asked.append(how) or Model())
    monkeypatch.setattr(loading, "with_kept_adapter", lambda model, _folder: model)
    loading.load(object, tiny_model, "16")
    assert asked[0]["device_map"] == place
