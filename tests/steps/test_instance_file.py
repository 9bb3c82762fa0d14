"""More instance types, from a file of the user."""

import json

import pytest
from test_plan_hardware import hardware

from steps.errors import UserError

NODES = """\
gpu-node: {cpu: 16, memory: 128, gpus: 2, gpu_memory: 80}
MI300X: {cpu: 96, memory: 1850, gpus: 8, gpu_memory: 192, gpu_type: amd.com/gpu}
small: {cpu: 4, memory: 16}
"""


def of(file, **changes):
    return hardware(instance_types_file=str(file), **changes)


@pytest.fixture
def file(tmp_path):
    made = tmp_path / "machines.yaml"
    made.write_text(NODES)
    return made


def test_its_types_are_known_in_any_spelling(file):
    made = of(file, instance_type_finetune="GPU-node", instance_type_preprocess="Small")
    # Half of nine tenths of 16 CPUs, and of 85 % of 128 GiB, for one of two GPUs.
    assert (made["finetune"].cpu, made["finetune"].memory, made["finetune"].gpu_memory) == ("7", "54Gi", 80)
    assert (made["prepare"].cpu, made["prepare"].memory) == ("3", "13Gi")
    assert made["evaluate"].memory == "95Gi"  # the vendors' types stay


def test_gpus_of_another_vendor_are_requested_and_their_taint_tolerated(file):
    made = of(file, instance_type_finetune="mi300x", number_of_gpu_to_use_finetuning=8)["finetune"]
    assert (made.gpu_type, made.gpu_count, made.gpu_memory) == ("amd.com/gpu", "8", 192)
    assert made.tolerations == [{"key": "amd.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def test_it_may_be_json_and_have_the_form_of_a_profile(tmp_path):
    file = tmp_path / "machines.json"
    file.write_text(json.dumps({"instance_types": {"node": {"cpu": 10, "memory": 100}}}))
    assert of(file, instance_type_preprocess="node")["prepare"].memory == "85Gi"


def test_its_types_override_those_of_the_profile_and_of_vendors(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_CLUSTER", json.dumps({"instance_types": {"node": {"cpu": 1, "memory": 10}}}))
    file = tmp_path / "machines.yaml"
    file.write_text("node: {cpu: 10, memory: 100}\nstandard_d12_v2: {cpu: 10, memory: 200}\n")
    made = of(file, instance_type_preprocess="node")
    assert (made["prepare"].memory, made["import"].memory) == ("85Gi", "170Gi")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "PLAN-E0206 instance_types_file"),
        ("- a\n- b\n", "PLAN-E0206"),
        ("node: {cpu: 1", "PLAN-E0206"),
        ("node: &a {cpu: 1, memory: 1}\nother: *a\n", "a YAML alias"),
        ("node: {cpu: 1, memory: 1}\nnode: {cpu: 2, memory: 2}\n", "the key node twice"),
        ("node: {cpu: 1, memory: 1}\nNODE: {cpu: 2, memory: 2}\n", "two spellings"),
        ("node: 4\n", "its resources by name"),
        ("node: {cpu: 1}\n", "node.memory: found nothing"),
        ("node: {cpu: 1.5, memory: 2}\n", "node.cpu: found 1.5"),
        ("node: {cpu: true, memory: 2}\n", "node.cpu: found True"),
        ("node: {cpu: 1, memory: 64Gi}\n", "node.memory: found '64Gi'|node.memory: found \"64Gi\""),
        ("node: {cpu: 0, memory: 2}\n", "node.cpu: found 0"),
        ("node: {cpu: 1, memory: 2, gpus: -1}\n", "node.gpus: found -1"),
        ("node: {cpu: 1, memory: 2, gpu: 1}\n", "did you mean gpus"),
        ("node: {cpu: 1, memory: 2, gpu_type: nvidia}\n", "node.gpu_type: found"),
        ("a=b: {cpu: 1, memory: 2}\n", "without ="),
        ("3: {cpu: 1, memory: 2}\n", "without ="),
    ],
)
def test_what_is_no_list_of_machines_is_refused(tmp_path, content, words):
    file = tmp_path / "machines.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        of(file)
    assert len(caught.value.problems) == 1  # once, not for each task


def test_all_problems_are_told_at_once(tmp_path):
    file = tmp_path / "machines.yaml"
    file.write_text("a: {cpu: 0, memory: 0}\nb: {cpus: 1, cpu: 1, memory: 1}\n")
    with pytest.raises(UserError) as caught:
        of(file)
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("uri", ["nowhere.yaml", "https://host/machines.yaml", "a\\b.yaml"])
def test_a_file_that_cannot_be_read_is_refused(uri):
    with pytest.raises(UserError, match="instance_types_file"):
        of(uri)
