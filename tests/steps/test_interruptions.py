"""The plan chooses how often checkpoints are saved by time, and tells what an interruption costs."""

import json
import math

import pytest
from conftest import chat_rows, write_jsonl
from training_inputs import settings_with, train

from steps.errors import UserError
from steps.kinds.recipe import recipe
from steps.params.reading import read_parameters
from steps.params.training import CheckpointParams
from steps.plan.deciding import decide
from steps.plan.interruptions import MIB, interval
from steps.plan.memory import checkpoint_bytes
from steps.plan.settings import settings_of
from steps.plan.summary import as_text, summary_of

SOURCES = {"pytorch_model_path": "m", "train_file_path": "t"}
GIB = 1024 * MIB


@pytest.fixture
def given(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    rows = write_jsonl(tmp_path / "rows.jsonl", chat_rows(60))
    return {"pytorch_model_path": str(tiny_model), "train_file_path": str(rows), "number_of_gpu_to_use_finetuning": 0}


@pytest.fixture
def cluster(given, monkeypatch):
    monkeypatch.delenv("FINETUNE_ROOT")
    return {**given, "mlflow_server_uri": "http://m"}


def told(given: dict, **changes) -> tuple[str, dict[str, tuple[str, str]], float]:
    """Plan; give the text, the rows of the table and the minutes that finetune gets."""
    decisions = decide("chat_completion", {**given, **changes})
    summary = summary_of(decisions)
    lines = {line["name"]: (line["value"], line["how"]) for line in summary["arithmetic"]}
    return as_text(summary), lines, settings_of(decisions)["training"].checkpoints.save_minutes


# Size → minutes. sqrt(2 · seconds of a save · a day), by hand; the last two are longer than an hour.
INTERVALS = [(0, 5), (10 * MIB, 5), (100 * MIB, 6), (375 * MIB, 12), (GIB, 20), (12 * GIB, 60), (84 * GIB, 182)]


@pytest.mark.parametrize(("size", "minutes"), INTERVALS)
def test_the_interval_is_youngs_within_bounds(size, minutes):
    seconds = size / (125 * MIB)
    young = math.sqrt(2 * seconds * 86400) / 60
    assert interval(size) == minutes
    if 5 <= young <= 60:
        assert minutes == round(young)
    else:
        assert seconds <= 0.064 * minutes * 60  # saves take a small part of the time, also of a large model


# Bytes of a trained weight as measured from checkpoints of a Llama with 4.4 million weights.
MEASURED = {
    "AdamW": ({}, None, 12.01),
    "16 bits": ({"precision": "16"}, None, 12.01),
    "SGD": ({"optim": "sgd"}, None, 4.0),
    "RMSprop": ({"optim": "rmsprop"}, None, 8.01),
    "Adagrad": ({"optim": "adagrad"}, None, 8.0),
    "ZeRO-2": ({}, {"stage": 2}, 20.01),
    "ZeRO-3": ({}, {"stage": 3}, 16.0),
    "ZeRO-2, 16 bits": ({"precision": "16"}, {"stage": 2}, 16.01),
    "ZeRO-3, 16 bits": ({"precision": "16"}, {"stage": 3}, 14.0),
}


@pytest.mark.parametrize("case", MEASURED)
def test_the_size_of_a_checkpoint_is_the_measured_one(case):
    changes, zero, measured = MEASURED[case]
    parameters = read_parameters("chat_completion", {**SOURCES, **changes}).parameters
    size = checkpoint_bytes(parameters, recipe("causal_lm", "supervised"), {}, 1_000_000, zero)
    assert size / 1_000_000 == pytest.approx(measured, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["full", "LoRA"])
def test_the_size_that_is_told_is_the_size_on_disk(given, model, data, tmp_path, lora):
    decisions = decide("chat_completion", {**given, "apply_lora": lora, "lora_r": 64})
    kept = CheckpointParams(keep_checkpoints="true")
    train(
        settings_with({"num_train_epochs": 1}, lora={"apply_lora": lora, "lora_r": 64}, checkpoints=kept),
        model, data, tmp_path / "out",
    )  # fmt: skip
    (checkpoint,) = (tmp_path / "root/checkpoints").glob("*/*/checkpoint-*")
    weights = ("model.safetensors", "adapter_model.safetensors", "optimizer.pt")
    size = sum((checkpoint / name).stat().st_size for name in weights if (checkpoint / name).is_file())
    assert decisions.saves.bytes == pytest.approx(size, rel=0.15)


def test_a_local_run_is_protected_and_told_so(given, tmp_path):
    text, lines, minutes = told(given)
    assert minutes == 5
    assert lines["checkpoints by time"] == (
        "5 min", "an interruption loses at most 5 minutes of training; a checkpoint takes about 1 s",
    )  # fmt: skip
    size, how = lines["checkpoint"]
    assert size.endswith("MiB")
    assert how.startswith("weights and optimizer states; at most 2 at once, ")
    assert how.endswith(f", below {tmp_path}/root/checkpoints")
    assert "checkpoints by time           5 min    an interruption loses at most 5 minutes of training" in text


def test_a_cluster_without_a_place_saves_none_and_says_what_to_set(cluster):
    _, lines, minutes = told(cluster)
    assert minutes == 0
    assert lines["checkpoints by time"] == (
        "none",
        "an interrupted training starts again at step 0: set checkpoint_dir to an object store, or to a folder on a "
        "volume that outlives the pod",
    )
    assert lines["checkpoint"][1].endswith(", on the pod's own disk")


def test_a_cluster_with_a_place_is_protected(cluster):
    _, lines, minutes = told(cluster, checkpoint_dir="/checkpoints/ours")
    assert minutes == 5
    assert lines["checkpoints by time"][1].startswith("an interruption loses at most 5 minutes of training")
    assert lines["checkpoint"][1].endswith(", below /checkpoints/ours")


def test_a_cluster_with_an_object_store_is_protected_and_told_what_is_different(cluster, memory):
    _, lines, minutes = told(cluster, checkpoint_dir="memory://bucket/ours")
    assert minutes == 5
    most = "an interruption loses at most 5 minutes of training and what is trained during an upload; "
    assert lines["checkpoints by time"][1].startswith(most)
    assert lines["checkpoint"][1].endswith(", below memory://bucket/ours, uploaded in the background")


def test_minutes_that_were_asked_for_are_used(given, cluster, monkeypatch):
    _, lines, minutes = told(cluster, checkpoint_dir="/checkpoints", save_minutes=1)
    assert minutes == 1
    assert lines["checkpoints by time"][1].startswith("an interruption loses at most 1 minute of training")
    _, lines, minutes = told(cluster, save_minutes=2.5)
    assert minutes == 2.5
    assert lines["checkpoints by time"] == (
        "2.5 min",
        "they are lost with the pod: an interrupted training starts again at step 0; set checkpoint_dir to an object "
        "store, or to a folder on a volume that outlives the pod",
    )


@pytest.mark.parametrize(
    ("changes", "since"),
    [
        ({}, "the last evaluation"),
        ({"evaluation_strategy": "steps", "save_steps": 10}, "the last evaluation, or save_steps before"),
        ({"evaluation_strategy": "no"}, "the end of the last epoch"),
    ],
)
def test_without_them_the_work_between_other_checkpoints_is_at_stake(given, changes, since):
    _, lines, minutes = told(given, save_minutes=0, **changes)
    assert minutes == 0
    how = f"save_minutes is 0: an interruption loses what was trained since {since}"
    assert lines["checkpoints by time"] == ("none", how)


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 2),
        ({"save_minutes": 0}, 1),
        ({"num_train_epochs": 2.5}, 4),
        ({"save_total_limit": 2}, 4),
        ({"save_total_limit": 2, "save_minutes": 0}, 3),
        ({"evaluation_strategy": "steps", "eval_steps": 10, "num_train_epochs": 2}, 11),
        ({"save_steps": 12}, 6),  # 48 steps
    ],
)
def test_the_disk_that_checkpoints_take_is_told(given, changes, count):
    decisions = decide("chat_completion", {**given, **changes})
    assert decisions.saves.at_once == count
    assert summary_of(decisions)["checkpoints"]["at_once"] == count


def test_a_plan_for_a_machine_elsewhere_says_what_to_set_there(given):
    _, lines, _ = told(given, instance_type_finetune="cpu=4,memory=16Gi")
    assert lines["checkpoints by time"][1].endswith("; on a cluster, set checkpoint_dir to an object store, or to a "
                                                    "folder on a volume that outlives the pod")  # fmt: skip


@pytest.mark.parametrize("value", [-0.5, -2, "often", math.inf])
def test_other_values_are_refused(given, value):
    with pytest.raises(UserError) as caught:
        decide("chat_completion", {**given, "save_minutes": value})
    assert "save_minutes" in str(caught.value)


def test_the_report_tells_it(given, tmp_path):
    from steps.plan.step import plan

    plan("chat_completion", given, tmp_path / "plan", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "an interruption loses at most 5 minutes of training" in page
    assert json.loads((tmp_path / "plan/plan.json").read_text())["checkpoints"]["save_minutes"] == 5


def test_a_local_run_has_no_workspace(given):
    with pytest.raises(UserError, match=r"PLAN-E0367 checkpoint_dir: found /kfp-workspace/checkpoints"):
        decide("chat_completion", {**given, "checkpoint_dir": "/kfp-workspace/checkpoints"})
