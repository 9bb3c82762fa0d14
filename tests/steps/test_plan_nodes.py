"""A plan for several nodes: what it demands, what each pod requests, and what the launcher is told."""

import json

import pytest
from planning import planned
from stores import ROOT

from steps import wire
from steps.errors import UserError
from steps.params.compute import CLUSTER
from steps.params.nodes import quantity_of, runtime_of, size_in_bytes
from steps.params.reading import read_parameters
from steps.params.settings import FinetuneSettings
from steps.plan.deciding import decide
from steps.plan.nodes import nodes_of
from steps.plan.settings import settings_of
from steps.plan.summary import as_text, summary_of

TYPES = {
    "gpus": {"cpu": 32, "memory": 128, "gpus": 4, "gpu_memory": 80},
    "cpus": {"cpu": 16, "memory": 64},
}
SOURCES = {"pytorch_model_path": "m", "train_file_path": "t"}


@pytest.fixture
def base(tiny_model, monkeypatch):
    """The tiny model, planned for a cluster that has TYPES."""
    monkeypatch.delenv("FINETUNE_ROOT", raising=False)
    monkeypatch.setenv(CLUSTER, json.dumps({"instance_types": TYPES, "node_selector": {"zone": "a"}}))
    return tiny_model


def there(base, rows, **changes):
    given = {"mlflow_server_uri": "http://mlflow", "checkpoint_dir": "/checkpoints/c", "num_nodes_finetune": 2,
             "instance_type_finetune": "gpus", **changes}  # fmt: skip
    return planned(base, rows, **given)


def problems(base, rows, **changes) -> str:
    with pytest.raises(UserError) as caught:
        there(base, rows, **changes)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5g", 5 * 2**30), ("5G", 5 * 2**30), ("5Gi", 5 * 2**30), ("5gb", 5 * 2**30), ("512m", 2**29), ("512Mi", 2**29),
        ("1.5g", 3 * 2**29), ("64k", 2**16), ("1048576", 2**20), ("2t", 2**41), (" 5 g ", 5 * 2**30),
        ("0g", 0), ("", 0), ("g", 0), ("-1g", 0), ("5x", 0), ("5g5", 0), ("1e3", 0), ("big", 0),
    ],
)  # fmt: skip
def test_sizes_are_read_as_container_engines_and_kubernetes_write_them(text, size):
    assert size_in_bytes(text) == size


@pytest.mark.parametrize(
    ("size", "text"), [(5 * 2**30, "5Gi"), (2**29, "512Mi"), (3 * 2**29, "1536Mi"), (2**41, "2Ti"), (1000, "1000")]
)
def test_a_size_becomes_a_quantity_that_means_the_same(size, text):
    assert quantity_of(size) == text


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("torch-distributed", ("ClusterTrainingRuntime", "torch-distributed")),
        ("TrainingRuntime/finetune", ("TrainingRuntime", "finetune")),
        ("ClusterTrainingRuntime/a.b", ("ClusterTrainingRuntime", "a.b")),
    ],
)
def test_a_runtime_is_named_with_or_without_its_kind(text, meant):
    assert runtime_of(text) == meant


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shm_size_finetune", "5x"), ("shm_size_finetune", "0"), ("kueue_queue_finetune", "My queue"),
        ("training_runtime_finetune", "Job/x"), ("training_runtime_finetune", ""), ("deadline_hours_finetune", 0),
    ],
)  # fmt: skip
def test_what_kubernetes_cannot_have_is_refused(name, value):
    with pytest.raises(UserError, match=name):
        read_parameters("chat_completion", {**SOURCES, name: value})


def test_the_nodes_request_the_machine_and_the_task_almost_nothing(base, chat_file):
    given = {"compute_finetune": "gpu-pool", "shm_size_finetune": "6g", "kueue_queue_finetune": "large",
             "deadline_hours_finetune": 1.5, "training_runtime_finetune": "x"}  # fmt: skip
    made = there(base, chat_file, number_of_gpu_to_use_finetuning=1, **given)
    task, nodes = made.hardware["finetune"], nodes_of(made)
    assert (task.cpu, task.memory, task.gpu_type, task.gpu_count, task.tolerations) == ("1", "2Gi", "", "0", [])
    assert task.node_selector == {"zone": "a"}  # not a node with GPUs
    assert (nodes.cpu, nodes.memory, nodes.gpu_type, nodes.gpu_count) == ("7", "27Gi", "nvidia.com/gpu", 1)
    assert nodes.node_selector == {"zone": "a", "node-pool": "gpu-pool"}
    assert nodes.tolerations == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert (nodes.shm_size, nodes.queue, nodes.deadline_seconds) == ("6Gi", "large", 5400)
    assert (nodes.runtime_kind, nodes.runtime) == ("ClusterTrainingRuntime", "x")
    settings = FinetuneSettings.model_validate(wire.load(wire.dump(settings_of(made)["training"].short())))
    assert settings.nodes == nodes
    assert (settings.gpus, settings.processes.nodes) == (1, 2)


def test_one_node_is_the_task_itself(base, chat_file):
    made = there(base, chat_file, num_nodes_finetune=1, number_of_gpu_to_use_finetuning=1)
    assert made.hardware["finetune"].gpu_count == "1"
    assert settings_of(made)["training"].nodes is None
    assert "nodes" not in made.hardware


def test_the_plan_tells_nodes_their_requests_and_their_price(base, chat_file):
    made = there(base, chat_file, number_of_gpu_to_use_finetuning=1, price_per_hour=3, tokens_per_second=1)
    alone = there(base, chat_file, number_of_gpu_to_use_finetuning=1, price_per_hour=3, tokens_per_second=1,
                  num_nodes_finetune=1)  # fmt: skip
    summary = summary_of(made)
    rows = {task["task"]: task for task in summary["tasks"]}
    assert (rows["nodes"]["count"], rows["nodes"]["gpu_count"]) == (2, "1")
    assert rows["finetune"]["gpu_count"] == "0"
    text = as_text(summary)
    assert "2 × nodes" in text
    assert "2 nodes × 1 process: a TrainJob with TrainingRuntime/finetune, at most 168 h" in text
    assert "× price_per_hour × 2 nodes" in text
    cost, time = (summary["estimate"][name] for name in ("cost", "seconds"))
    assert cost == pytest.approx(time / 3600 * 3 * 2)
    assert summary_of(alone)["estimate"]["cost"] == pytest.approx(summary_of(alone)["estimate"]["seconds"] / 3600 * 3)


def test_the_report_shows_the_nodes(base, chat_file, tmp_path, monkeypatch):
    from steps.plan.step import plan

    given = {"pytorch_model_path": str(base), "train_file_path": str(chat_file), "mlflow_server_uri": "http://mlflow",
             "number_of_gpu_to_use_finetuning": 0, "checkpoint_dir": "/c", "num_nodes_finetune": 3}  # fmt: skip
    made = plan("chat_completion", given, tmp_path / "plan", tmp_path / "plan.html")
    assert (made.finetune_cpu, made.finetune_gpu_count) == ("1", "0")
    assert "3 × nodes" in " ".join((tmp_path / "plan.html").read_text().split())


def test_nodes_need_a_place_that_all_of_them_see(base, chat_file):
    assert "checkpoint_dir: found nothing, with num_nodes_finetune=2" in problems(base, chat_file, checkpoint_dir="")


def test_a_local_run_has_one_machine(base, chat_file, monkeypatch, tmp_path):
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    told = problems(base, chat_file, checkpoint_dir="", nproc_per_node_finetune=2)
    assert "num_nodes_finetune: found 2 in a local run; expected 1, because this is one machine" in told
    assert "nproc_per_node_finetune=4" in told


def test_shared_memory_is_part_of_the_memory(base, chat_file):
    told = problems(base, chat_file, number_of_gpu_to_use_finetuning=1, shm_size_finetune="64g")
    assert "PLAN-E0394 shm_size_finetune: found 64g, of nodes with 27Gi" in told


def test_a_sweep_has_trials_of_one_node(base, chat_file):
    from steps.plan.sweeps import decide_sweep

    given = {"pytorch_model_path": str(base), "train_file_path": str(chat_file), "num_nodes_finetune": 2,
             "mlflow_server_uri": "http://mlflow", "checkpoint_dir": "/c", "number_of_gpu_to_use_finetuning": 0,
             "trials": [{"learning_rate": 1e-4}, {"learning_rate": 1e-3}]}  # fmt: skip
    with pytest.raises(UserError, match="PLAN-E0393 num_nodes_finetune: found 2 in a sweep"):
        decide_sweep("chat_completion_sweep", given)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"shm_size_finetune": "6g"}, ""),  # the task's 8Gi are enough
        ({"shm_size_finetune": "16g"}, "shm_size_finetune is ignored: with one node /dev/shm has 8Gi"),
        ({"kueue_queue_finetune": "q"}, "kueue_queue_finetune is ignored: num_nodes_finetune is 1"),
        ({"deadline_hours_finetune": 2.0}, "deadline_hours_finetune is ignored"),
        ({"training_runtime_finetune": "x"}, "training_runtime_finetune is ignored"),
    ],
)
def test_what_one_node_ignores_is_told(base, chat_file, changes, told):
    made = there(base, chat_file, num_nodes_finetune=1, number_of_gpu_to_use_finetuning=1, **changes)
    ignored = [text for text in made.warnings if "is ignored" in text]
    assert any(told in text for text in ignored) if told else ignored == []


def test_the_clusters_own_shared_memory_counts(base, chat_file, monkeypatch):
    from pipelines.profile import Profile

    profile = Profile.model_validate({"shared_memory": "32Gi", "instance_types": TYPES})
    monkeypatch.setenv(CLUSTER, profile.for_the_plan)
    made = there(base, chat_file, num_nodes_finetune=1, number_of_gpu_to_use_finetuning=1, shm_size_finetune="16g")
    assert not [text for text in made.warnings if "shm_size" in text]


def test_another_runtime_is_told_what_ours_does(base, chat_file):
    made = there(base, chat_file, training_runtime_finetune="torch-distributed")
    assert any("docs/training-runtime.yaml" in text for text in made.warnings)
    assert not any("docs/training-runtime.yaml" in text for text in there(base, chat_file).warnings)


def with_verl(base, tmp_path, **changes):
    """Plan a training with verl on the machine with four GPUs."""
    rows = tmp_path / "questions.jsonl"
    rows.write_text("".join(json.dumps({"question": f"{number} + 0?", "answer": str(number)}) + "\n"
                            for number in range(40)))  # fmt: skip
    given = {
        "pytorch_model_path": str(base), "data_train_files": str(rows), "reward_funcs": "exact_answer",
        "question_key": "question", "answer_key": "answer", "mlflow_server_uri": "http://mlflow",
        "instance_type_finetune": "gpus", "number_of_gpu_to_use_finetuning": 4,
        "data_train_batch_size": 8, "actor_ppo_mini_batch_size": 8, "rollout_n": 2, "data_max_prompt_length": 32,
        "actor_ppo_micro_batch_size_per_gpu": 1, "rollout_log_prob_micro_batch_size_per_gpu": 1,
        "data_max_response_length": 16, **changes,
    }  # fmt: skip
    return decide("verl_finetune", given)


def test_verl_trains_on_the_gpus_of_all_nodes(base, tmp_path):
    made = with_verl(base, tmp_path, num_nodes_finetune=2, checkpoint_dir="/checkpoints/c", price_per_hour=3)
    settings = FinetuneSettings.model_validate(wire.load(wire.dump(settings_of(made)["training"].short())))
    assert (settings.nodes.gpu_count, settings.processes.nodes) == (4, 2)
    assert (settings.verl.trainer_nnodes, settings.verl.trainer_n_gpus_per_node) == (2, 4)
    summary = summary_of(made)
    rows = {task["task"]: task for task in summary["tasks"]}
    assert (rows["nodes"]["count"], rows["nodes"]["gpu_count"], rows["finetune"]["gpu_count"]) == (2, "4", "0")
    assert {"name": "GPUs", "value": 8, "how": "4 per node × 2 nodes, 2 for each copy that writes completions"} in (
        summary["arithmetic"]
    )


def test_verl_on_one_node_keeps_checkpoints_in_an_object_store_and_on_several_needs_a_volume(base, tmp_path, memory):
    place = {"checkpoint_dir": ROOT}
    assert settings_of(with_verl(base, tmp_path, **place))["training"].checkpoints.checkpoint_dir == ROOT
    for given in (place, {}):
        with pytest.raises(UserError, match=r"PLAN-E0392 checkpoint_dir: .*a folder on a volume that all nodes mount"):
            with_verl(base, tmp_path, num_nodes_finetune=2, **given)
