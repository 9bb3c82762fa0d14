"""What each task requests on a cluster: CPUs, memory, GPUs and nodes."""

import pytest

from steps.errors import UserError
from steps.params.reading import read_parameters
from steps.plan.hardware import hardware_of


def hardware(**changes):
    given = {"pytorch_model_path": "m", "train_file_path": "t.jsonl", **changes}
    return hardware_of(read_parameters("chat_completion", given).parameters)


def test_a_task_gets_its_share_of_a_machine_with_several_gpus():
    # Standard_nc24rs_v3: 24 CPUs, 448 GiB, 4 GPUs; a quarter of nine tenths of the CPUs and of 85 % of the memory.
    finetune = hardware()["finetune"]
    assert (finetune.cpu, finetune.memory, finetune.gpu_type, finetune.gpu_count) == (
        "5",
        "95Gi",
        "nvidia.com/gpu",
        "1",
    )


def test_a_task_without_gpus_gets_a_machine_of_its_own():
    # Standard_d12_v2: 4 CPUs, 28 GiB. The one for training on a CPU has GPUs that are left to others: a quarter of it.
    made = hardware(number_of_gpu_to_use_finetuning=0)
    assert [(made[task].cpu, made[task].memory) for task in ("import", "prepare", "finetune")] == [
        ("3", "23Gi"), ("3", "23Gi"), ("5", "95Gi"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ("cpu=6,memory=50Gi,gpu_memry=64Gi", "did you mean gpu_memory"),
        ("cpu=6,memory=50Gi,disk=1Ti", "use the keys cpu, memory, gpu, gpus, gpu_memory"),
        ("cpu=0,memory=5Gi", "write whole numbers"),
        ("cpu=1.5,memory=5Gi", "write whole numbers"),
        ("cpu=500m,memory=5Gi", "write whole numbers"),
        ("cpu=-1,memory=5Gi", "write whole numbers"),
        ("cpu=6,memory=64", "memory in Gi"),
        ("cpu=6,memory=64GB", "memory in Gi"),
        ("cpu=6,memory=0Gi", "memory in Gi"),
        ("cpu=6", "add memory="),
        ("memory=5Gi", "add cpu="),
        ("cpu=6,cpu=8,memory=5Gi", "write each key once"),
        ("cpu=6,memory=5Gi,", "use the keys"),
        ("cpu=6;memory=5Gi", "PLAN-E0205"),
        ("cpu=6,memory=5Gi,gpu=nvidia", "PLAN-E0205"),
        ("cpu=6,memory=5Gi,gpu=", "PLAN-E0205"),
        ("cpu=6,memory=5Gi,gpu=nvidia.com/gpu,gpus=0", "PLAN-E0205"),
        ("cpu=6,memory=5Gi,gpu=nvidia.com/gpu,gpus=many", "PLAN-E0205"),
        ("cpu=6,memory=5Gi,gpus=1", "add gpu=nvidia.com/gpu"),
        ("cpu=6,memory=5Gi,gpu_memory=80Gi", "add gpu=nvidia.com/gpu"),
    ],
)
def test_a_raw_request_with_something_else_in_it_is_refused(size, words):
    with pytest.raises(
        UserError, match=f"PLAN-E0205 instance_type_preprocess.*{words}|{words} instance_type_preprocess"
    ):
        hardware(instance_type_preprocess=size)


@pytest.mark.parametrize("pool", ["FT Cluster", "-pool", "a" * 64, "ä", "pool/one"])
def test_a_pool_that_no_label_can_hold_is_refused(pool):
    with pytest.raises(UserError, match="PLAN-E0204 compute_finetune"):
        hardware(compute_finetune=pool)


def test_without_gpus_no_gpu_resource_is_named():
    finetune = hardware(number_of_gpu_to_use_finetuning=0)["finetune"]
    assert (finetune.gpu_type, finetune.gpu_count, finetune.tolerations) == ("", "0", [])


def test_a_node_pool_becomes_a_node_selector_and_serverless_none():
    made = hardware(compute_preprocess="cpu-pool", node_pool_label="pool")
    assert made["prepare"].node_selector == {"pool": "cpu-pool"}
    assert made["finetune"].node_selector == {}


def test_a_raw_request_is_asked_for_in_full():
    finetune = hardware(instance_type_finetune="cpu=6,memory=50Gi,gpu=amd.com/gpu,gpus=1,gpu_memory=64Gi")["finetune"]
    assert (finetune.cpu, finetune.memory, finetune.gpu_type, finetune.gpu_memory) == ("6", "50Gi", "amd.com/gpu", 64)
    for amount in range(1, 130):
        prepare = hardware(instance_type_preprocess=f"cpu={amount},memory={amount}Gi")["prepare"]
        assert (prepare.cpu, prepare.memory) == (str(amount), f"{amount}Gi")


@pytest.mark.parametrize(
    ("size", "gpus", "expected"),
    [
        ("cpu=8,memory=64Gi,gpu=nvidia.com/gpu", 1, ("8", "64Gi", "nvidia.com/gpu", "1", 0)),
        ("cpu=8,memory=64Gi,gpu=nvidia.com/gpu", 0, ("8", "64Gi", "", "0", 0)),
        ("cpu=8,memory=64Gi,gpu=nvidia.com/gpu,gpu_memory=80Gi", 1, ("8", "64Gi", "nvidia.com/gpu", "1", 80)),
        ("cpu=8,memory=64Gi,gpu=nvidia.com/gpu,gpus=4", 1, ("8", "64Gi", "nvidia.com/gpu", "4", 0)),
        ("cpu=8, memory=64Gi, gpu=nvidia.com/mig-1g.10gb", 1, ("8", "64Gi", "nvidia.com/mig-1g.10gb", "1", 0)),
        ("cpu=8,memory=64Gi", 0, ("8", "64Gi", "", "0", 0)),
    ],
)
def test_a_raw_request_asks_for_what_it_says(size, gpus, expected):
    made = hardware(instance_type_finetune=size, number_of_gpu_to_use_finetuning=gpus,
                    instance_type_model_evaluation=size)  # fmt: skip
    for task in ("finetune", "evaluate"):
        one = made[task]
        assert (one.cpu, one.memory, one.gpu_type, one.gpu_count, one.gpu_memory) == expected


def test_a_raw_request_with_fewer_gpus_than_are_used_is_refused():
    with pytest.raises(UserError, match=r"PLAN-E0202 instance_type_finetune: .* with 0 GPUs"):
        hardware(instance_type_finetune="cpu=8,memory=64Gi")
