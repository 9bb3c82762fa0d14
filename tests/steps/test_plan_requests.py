"""What tasks request follows from the sizes of model and rows, within the share of the instance type."""

import json
from dataclasses import replace

import pytest
from planning import planned

from steps.params.compute import CLUSTER
from steps.plan import deciding
from steps.plan.adapter_tools import decide as decide_tools
from steps.plan.hardware import Hardware
from steps.plan.need import GIB, Need
from steps.plan.needs import downloading
from steps.plan.summary import as_text, summary_of
from steps.sources.storage import DOWNLOADS_AT_ONCE

TYPES = {
    "small": {"cpu": 4, "memory": 4},
    "tiny": {"cpu": 1, "memory": 2},
    "cpus": {"cpu": 16, "memory": 64},
    "gpus": {"cpu": 32, "memory": 128, "gpus": 4, "gpu_memory": 80},
}


@pytest.fixture
def base(tiny_model, monkeypatch):
    """The tiny model, planned for a cluster that has TYPES."""
    monkeypatch.delenv("FINETUNE_ROOT", raising=False)
    monkeypatch.setenv(CLUSTER, json.dumps({"instance_types": TYPES, "node_selector": {}}))
    return tiny_model


def planned_there(base, rows, pipeline="chat_completion", **changes):
    return planned(base, rows, pipeline, mlflow_server_uri="http://mlflow", **changes)


def grown(monkeypatch, gigabytes: float, largest: int = 2**27):
    """Let the plan find a model of this size, with a tensor of `largest` weights and its own configuration."""
    real = deciding.look_at_model

    def look(parameters):
        found = real(parameters)
        count = int(gigabytes * 1e9) // 4
        shapes = {"largest": (largest,), "others": (count - largest,)}
        size = int(gigabytes * 1e9)
        names = {**found.files.names, "model.safetensors": size}
        return replace(found, bytes=size, shapes=shapes, files=replace(found.files, names=names))

    monkeypatch.setattr(deciding, "look_at_model", look)


def asked(decisions):
    return {group: (one.cpu, one.memory) for group, one in decisions.hardware.items()}


def test_a_small_model_requests_the_least_that_the_launcher_needs(base, chat_file):
    made = planned_there(base, chat_file)
    assert asked(made) == dict.fromkeys(("import", "prepare", "finetune", "evaluate"), ("1", "2Gi"))
    assert all(one.gpu_count == "0" and not one.gpu_type and not one.tolerations and not one.node_selector
               for one in made.hardware.values())  # fmt: skip


def test_training_on_a_gpu_takes_its_part_of_the_machine(base, chat_file):
    made = planned_there(base, chat_file, number_of_gpu_to_use_finetuning=1)
    assert asked(made)["finetune"] == ("5", "95Gi")
    assert asked(made)["evaluate"] == ("3", "5Gi")  # 4 GiB of CUDA's libraries, and the model
    assert made.hardware["evaluate"].gpu_count == "1"
    assert asked(made)["import"] == ("1", "2Gi")


@pytest.mark.parametrize(
    ("gigabytes", "changes", "group", "expected"),
    [
        # Imported in blocks: the memory does not grow with the model.
        (14, {}, "import", ("3", "2Gi")),
        # 0.7 GiB and 5/4 of 4 GB of weights, 12 GB of gradients and optimizer states.
        (4, {}, "finetune", ("10", "20Gi")),
        # The mapped file and the weights.
        (4, {}, "evaluate", ("6", "11Gi")),
        (4, {"precision": "16"}, "evaluate", ("4", "8Gi")),
        # Only an adapter is trained, but the weights are loaded in float32 beside the mapped file.
        (4, {"apply_lora": True}, "finetune", ("6", "11Gi")),
    ],
)
def test_requests_grow_with_the_model(base, chat_file, monkeypatch, gigabytes, changes, group, expected):
    grown(monkeypatch, gigabytes)
    large = {"instance_type_finetune": "cpus", "instance_type_model_evaluation": "cpus"}
    assert asked(planned_there(base, chat_file, **large, **changes))[group] == expected


def test_prepare_grows_with_the_rows(base, chat_file, monkeypatch):
    real = deciding.look_at_data
    monkeypatch.setattr(deciding, "look_at_data", lambda p: {
        split: replace(found, bytes=4 * GIB, unpacked=4 * GIB) for split, found in real(p).items()
    })  # fmt: skip
    assert asked(planned_there(base, chat_file))["prepare"] == ("3", "9Gi")


def test_rows_of_unknown_size_request_the_share(base, chat_file, monkeypatch):
    real = deciding.look_at_data
    monkeypatch.setattr(deciding, "look_at_data", lambda p: {
        split: replace(found, bytes=0, unpacked=None) for split, found in real(p).items()
    })  # fmt: skip
    made = planned_there(base, chat_file)
    assert asked(made) == {"import": ("1", "2Gi"), "prepare": ("3", "23Gi"), "finetune": ("5", "95Gi"),
                           "evaluate": ("5", "95Gi")}  # fmt: skip
    assert "share of Standard_d12_v2: rows of unknown size" in as_text(summary_of(made))


@pytest.mark.parametrize("name", ["cpus", "CPUS", "gpus", "Standard_D14_v2"])
def test_a_named_instance_type_is_an_upper_bound(base, chat_file, name):
    made = planned_there(base, chat_file, instance_type_finetune=name, instance_type_model_import=name)
    assert asked(made)["finetune"] == asked(made)["import"] == ("1", "2Gi")
    assert made.hardware["finetune"].gpu_type == ""


def test_a_written_request_stays_as_written(base, chat_file):
    made = planned_there(base, chat_file, instance_type_model_import="cpu=4,memory=28Gi",
                         instance_type_finetune="cpu=8,memory=64Gi")  # fmt: skip
    assert (asked(made)["import"], asked(made)["finetune"]) == (("4", "28Gi"), ("8", "64Gi"))
    assert "as written; a model of" in as_text(summary_of(made))


def test_written_gpus_that_nothing_uses_are_warned_of(base, chat_file):
    written = "cpu=8,memory=64Gi,gpu=nvidia.com/gpu,gpus=1"
    made = planned_there(base, chat_file, instance_type_finetune=written)
    assert made.hardware["finetune"].gpu_count == "1"
    assert [line for line in made.warnings if "1 nvidia.com/gpu is requested as written" in line]
    none = planned_there(base, chat_file, instance_type_finetune="cpu=8,memory=64Gi,gpu=nvidia.com/gpu")
    assert not [line for line in none.warnings if "requested as written" in line]


def test_a_request_is_never_more_than_the_share(base, chat_file, monkeypatch):
    grown(monkeypatch, 6)
    made = planned_there(base, chat_file, instance_type_model_evaluation="small", apply_lora=True)
    assert asked(made)["evaluate"] == ("3", "3Gi")
    (told,) = [line for line in made.warnings if line.startswith("instance_type_model_evaluation:")]
    assert "evaluate needs about 6.3 GiB of memory, and 3Gi is its share of small" in told
    assert "at most the share of small" in as_text(summary_of(made))


def test_a_machine_below_the_least_is_warned_of(base, chat_file):
    made = planned_there(base, chat_file, instance_type_preprocess="tiny")
    assert asked(made)["prepare"] == ("1", "1Gi")
    assert any("instance_type_preprocess: prepare_data needs about 2.0 GiB" in line for line in made.warnings)


def test_a_pool_that_is_named_stays_also_without_gpus(base, chat_file):
    made = planned_there(base, chat_file, compute_finetune="pool")
    assert made.hardware["finetune"].node_selector == {"node-pool": "pool"}


def test_the_plan_tells_each_request_with_its_reason_and_disk(base, chat_file):
    told = {task["task"]: task for task in summary_of(planned_there(base, chat_file))["tasks"]}
    size = (base / "model.safetensors").stat().st_size
    assert told["import_model"]["why"].startswith("a model of ")
    # The imported model: every file that is copied.
    assert size < told["import_model"]["disk_bytes"] < sum(file.stat().st_size for file in base.iterdir()) + 1
    # The model and the tuned one, with the rows; a checkpoint has weights and two states of Adam in float32.
    for task in ("finetune", "evaluate"):
        assert 2 * size < told[task]["disk_bytes"] < 2 * size + 2**20
    assert "for each checkpoint" in told["finetune"]["more_disk"]


def test_a_merged_model_counts_on_the_disks(base, chat_file):
    whole, adapter = (
        {task["task"]: task["disk_bytes"] for task in summary_of(planned_there(base, chat_file, **changes))["tasks"]}
        for changes in ({}, {"apply_lora": True})
    )
    size = (base / "model.safetensors").stat().st_size
    assert adapter["finetune"] > 2 * size
    assert adapter["finetune"] - whole["finetune"] < size  # in place of the tuned weights: merged ones and an adapter
    assert adapter["register_model"] > size


def test_a_reference_model_is_imported_too(base, tiny_model, tmp_path):
    rows = tmp_path / "pairs.jsonl"
    row = {"prompt": "Say yes", "chosen": "yes", "rejected": "no"}
    rows.write_text("".join(json.dumps({**row, "prompt": f"Say yes {number}"}) + "\n" for number in range(40)))

    def disk(**more):
        made = summary_of(planned_there(base, rows, "preference", **more))
        return made["tasks"][0]["disk_bytes"]

    size = (tiny_model / "model.safetensors").stat().st_size
    assert disk(reference_model_path=str(tiny_model)) - disk() == size


def test_new_weights_request_as_those_of_a_stored_model(base, tmp_path):
    rows = tmp_path / "texts.jsonl"
    rows.write_text("".join(json.dumps({"text": f"words {number}"}) + "\n" for number in range(40)))
    made = planned_there(base, rows, "pretraining", new_weights=True)
    assert asked(made)["import"] == ("1", "2Gi")
    assert "a model without weights" in as_text(summary_of(made))


def test_adapter_tools_request_what_they_need(base, monkeypatch):
    made = decide_tools("adapter_tools", {"pytorch_model_path": str(base), "action": "replace_tokens",
                                          "replacements": {"<|im_start|>": "<|begin|>"}})  # fmt: skip
    assert asked(made) == {"import": ("1", "2Gi")}


@pytest.mark.parametrize(
    ("needs", "machine", "expected"),
    [
        ([Need(0, "")], "node", ("1", "2Gi")),
        ([Need(2 * GIB, "")], "node", ("1", "2Gi")),
        ([Need(2 * GIB + 1, "")], "node", ("1", "3Gi")),
        ([Need(2 * GIB, "", work=2 * GIB), Need(5 * GIB, "")], "node", ("2", "5Gi")),
        ([Need(99 * GIB, "", work=99 * GIB)], "node", ("4", "8Gi")),
        ([Need(GIB, ""), Need(None, "")], "node", ("4", "8Gi")),
        ([], "node", ("4", "8Gi")),
        ([Need(GIB, "")], "", ("4", "8Gi")),
    ],
)
def test_a_share_is_lowered_to_the_largest_need(needs, machine, expected):
    share = Hardware("4", "8Gi", "", "0", {}, [], 0, machine)
    made = share.fitted(needs)
    assert (made.cpu, made.memory) == expected


MIB = 2**20


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], 0),
        ([3 * MIB, 1000], 2 * (3 * MIB + 1000)),
        ([14 * GIB], 1000 * MIB),  # one file: ten parts of 50 MiB, twice
        ([5 * GIB] * 30, DOWNLOADS_AT_ONCE * 1000 * MIB),  # as many files as are downloaded at once
    ],
)
def test_a_download_holds_parts_of_the_files_that_arrive_together(sizes, expected):
    assert downloading(sizes) == expected


def test_a_model_in_an_object_store_needs_memory_and_disk_to_arrive(base, chat_file, monkeypatch):
    real = deciding.needs_of

    def needs(seen, estimate):
        found = seen.model
        names = {**found.files.names, "model.safetensors": 3 * GIB, "pytorch_model.bin": 3 * GIB}
        far = replace(found, bytes=3 * GIB, files=replace(found.files, uri="s3://models/large", names=names))
        return real(replace(seen, model=far), estimate)

    monkeypatch.setattr(deciding, "needs_of", needs)
    made = planned_there(base, chat_file, number_of_gpu_to_use_finetuning=1)
    assert asked(made)["import"] == ("2", "3Gi")
    # The whole folder arrives, the weights in safetensors are copied.
    assert 9 * GIB < made.needs["import_model"].disk < 9 * GIB + MIB
