"""How several processes share a model: the plan chooses it, tells why, and says with what a training would fit."""

import json

import pytest
from conftest import chat_rows, write_jsonl

from steps import wire
from steps.errors import UserError
from steps.kinds.recipe import recipe
from steps.params.compute import CLUSTER
from steps.params.reading import read_parameters
from steps.params.settings import FinetuneSettings
from steps.plan.memory import MemoryEstimate, estimate
from steps.plan.need import GIB
from steps.plan.sharding import Sharing
from steps.plan.step import plan

# One billion weights: 16 bytes each are 14.9 GiB, and 18.6 GiB while torch updates all of them at once.
BILLION = 1_000_000_000
TYPES = {
    "two-of-24": {"cpu": 16, "memory": 128, "gpus": 2, "gpu_memory": 24},
    "four-of-16": {"cpu": 16, "memory": 256, "gpus": 4, "gpu_memory": 16},
    "eight-of-8": {"cpu": 64, "memory": 512, "gpus": 8, "gpu_memory": 8},
}
CONFIG = {"hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192, "vocab_size": 32000,
          "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "hidden_act": "silu"}  # fmt: skip


@pytest.fixture
def given(tiny_model, tmp_path, monkeypatch):
    """A model that counts as one of a billion weights, planned for a cluster that has TYPES."""
    from steps.plan.sources import ModelFound

    monkeypatch.delenv("FINETUNE_ROOT", raising=False)
    monkeypatch.setenv(CLUSTER, json.dumps({"instance_types": TYPES, "node_selector": {}}))
    monkeypatch.setattr(ModelFound, "parameters", property(lambda self: BILLION))
    rows = write_jsonl(tmp_path / "rows.jsonl", chat_rows(60))
    return {"pytorch_model_path": str(tiny_model), "train_file_path": str(rows), "mlflow_server_uri": "http://m",
            "number_of_gpu_to_use_finetuning": 2, "instance_type_finetune": "two-of-24"}  # fmt: skip


def planned(given, tmp_path, **changes):
    made = plan("chat_completion", {**given, **changes}, tmp_path / "plan", tmp_path / "plan.html")
    told = json.loads((tmp_path / "plan/plan.json").read_text())
    return FinetuneSettings.model_validate(wire.load(made.training)).processes, told


def line(told: dict) -> str:
    (found,) = [row["how"] for row in told["arithmetic"] if row["name"] == "training processes"]
    return str(found)


def test_a_model_that_fits_is_copied(given, tmp_path):
    # DDP has gradients twice: 18.6 GiB, and with the optimizer's update 22.4 of 21.6 GiB; fused it fits.
    processes, told = planned(given, tmp_path, optim="adamw_torch_fused")
    assert (processes.strategy, processes.per_node, processes.count) == ("ddp", 2, 2)
    assert line(told).startswith("have a copy of the model each (ddp), which fits: 18.")
    assert "of the 24.0 GiB of one GPU of instance_type_finetune" in line(told)
    assert "memory of each process" in (tmp_path / "plan.html").read_text() or told["memory"]["processes"] == 2


def test_a_model_that_does_not_fit_is_sharded_and_the_reason_told(given, tmp_path):
    processes, told = planned(given, tmp_path)
    assert processes.strategy == "fsdp"
    assert line(told).startswith("share the model (fsdp), because a copy needs 22.")
    assert told["memory"]["needed_bytes"] < 20 * GIB
    assert "because a copy needs" in (tmp_path / "plan.html").read_text()


def test_the_strategy_that_is_asked_for_is_taken(given, tmp_path):
    processes, told = planned(given, tmp_path, distributed_strategy="fsdp", optim="adamw_torch_fused")
    assert processes.strategy == "fsdp"
    assert line(told) == "share the model (fsdp), as distributed_strategy says"
    processes, told = planned(given, tmp_path, distributed_strategy="ddp", fsdp_cpu_offload=False)
    assert processes.strategy == "ddp"
    (warning,) = [note for note in told["warnings"] if "is expected to need" in note]
    assert "in each process" in warning
    assert "optim=adamw_torch_fused" in warning
    assert "distributed_strategy=fsdp" in warning


def test_one_process_is_told_as_before(given, tmp_path):
    processes, told = planned(given, tmp_path, number_of_gpu_to_use_finetuning=1, optim="adamw_torch_fused")
    assert (processes.strategy, processes.count) == ("ddp", 1)
    assert not [row for row in told["arithmetic"] if row["name"] == "training processes"]


def test_what_does_not_fit_is_refused_with_what_would_fit(given, tmp_path):
    with pytest.raises(UserError) as caught:
        planned(given, tmp_path, instance_type_finetune="eight-of-8", number_of_gpu_to_use_finetuning=1)
    told = str(caught.value)
    assert "14.9 GiB of weights, gradients and optimizer states for the 8.0 GiB" in told
    assert "number_of_gpu_to_use_finetuning=8 (of 8) and distributed_strategy=fsdp" in told
    assert "apply_lora=true and precision=16" in told
    assert "number_of_gpu_to_use_finetuning=2" not in told  # not with shards of half the size
    assert "or with instance_type_finetune=ml.g5.2xlarge (24 GiB for each GPU)" in told  # the smallest that fits


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"apply_lora": True, "load_in_4bit": True}, "PLAN-E0396 distributed_strategy"),
        ({"optim": "adafactor"}, "PLAN-E0397 optim"),
        ({"optim": "galore_adamw"}, "PLAN-E0397 optim"),
    ],
)
def test_what_cannot_be_sharded_is_refused_with_fsdp_and_copied_with_auto(given, tmp_path, changes, code):
    with pytest.raises(UserError, match=code):
        planned(given, tmp_path, distributed_strategy="fsdp", **changes)
    monitored = {**given, "instance_type_finetune": "cpu=8,memory=64Gi,gpu=nvidia.com/gpu,gpus=2,gpu_memory=40Gi"}
    processes, _ = planned(monitored, tmp_path, **changes)
    assert processes.strategy == "ddp"


def test_a_small_shared_memory_is_warned_of(given, tmp_path, monkeypatch):
    assert not [note for note in planned(given, tmp_path)[1]["warnings"] if "/dev/shm" in note]
    monkeypatch.setenv(CLUSTER, json.dumps({"instance_types": TYPES, "node_selector": {}, "shared_memory": "64Mi"}))
    (warning,) = [note for note in planned(given, tmp_path)[1]["warnings"] if "/dev/shm" in note]
    assert "has 64Mi, and 2 processes need about 1Gi" in warning
    alone = {"number_of_gpu_to_use_finetuning": 1, "optim": "adamw_torch_fused"}
    assert not [note for note in planned(given, tmp_path, **alone)[1]["warnings"] if "/dev/shm" in note]


# The formula of what is shared


def needs(sharing: Sharing, zero: dict | None = None, **changes) -> MemoryEstimate:
    given = {"pytorch_model_path": "m", "train_file_path": "t.jsonl", "precision": "16", **changes}
    p = read_parameters("chat_completion", given).parameters
    return estimate(p, recipe("causal_lm", "supervised"), CONFIG, BILLION, 1024, 0, zero=zero, sharing=sharing)


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_shards_divide_weights_gradients_and_states(processes):
    alone, shard = needs(Sharing()), needs(Sharing("fsdp", processes, processes))
    assert shard.least == alone.least // processes
    # Rajbhandari et al. 2020: 16 bytes for each weight, divided; the rest does not shrink.
    assert shard.least == pytest.approx(16 * BILLION / processes, rel=0.001)


def test_kept_gathered_weights_need_more_and_offloaded_shards_less():
    usual, gathered, offloaded = (
        needs(Sharing("fsdp", 4, 4, reshard, offload))
        for reshard, offload in ((True, False), (False, False), (True, True))
    )
    assert usual.parts["gathered layers"] < gathered.parts["gathered layers"]
    assert gathered.parts["gathered layers"] >= 2 * BILLION * 0.99
    assert offloaded.least == 0
    assert offloaded.on_cpu == pytest.approx(16 * BILLION, rel=0.001)  # of all four processes
    assert usual.on_cpu == 0


@pytest.mark.parametrize(("stage", "least"), [(1, 2 + 2 + 12 / 4), (2, 2 + (2 + 12) / 4), (3, (2 + 2 + 12) / 4)])
def test_zero_divides_what_its_paper_says(stage, least):
    # Rajbhandari et al. 2020, table 1: 2 bytes for weights, 2 for gradients, 12 for states, from stage 1 on divided.
    shared = needs(Sharing("ddp", 4, 4), {"stage": stage})
    assert shared.least == pytest.approx(least * BILLION, rel=0.15)


def test_an_adapter_has_its_states_alone_to_share():
    lora = {"apply_lora": True}
    alone, copied, shard = (needs(how, **lora) for how in (Sharing(), Sharing("ddp", 4, 4), Sharing("fsdp", 4, 4)))
    assert copied.needed - alone.needed < 0.1 * GIB  # the buckets hold the adapter's gradients only
    assert shard.parts["weights"] == pytest.approx(alone.parts["weights"] / 4, rel=0.01)
    assert needs(Sharing(), **lora, load_in_4bit=True).parts["weights"] < 0.4 * alone.parts["weights"]
