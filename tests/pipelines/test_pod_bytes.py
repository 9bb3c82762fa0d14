"""A run's pod specifications stay small: Kubernetes limits the object that holds them, several times each."""

import shutil
from pathlib import Path

import pytest
import yaml
from pod_bytes import bytes_of, tasks

from steps.plan.step import plan

COMPILED = Path(__file__).parents[2] / "compiled"
# The same count on the commit 7edac6b, whose pods shipped the text of their function and every setting.
BEFORE = {
    "register-model": 10318, "evaluate": 6472, "finetune": 6844, "import-model": 3599, "merge-adapter": 2682,
    "plan": 21014, "prepare-data": 4577, "report": 3971,
}  # fmt: skip


@pytest.fixture
def run(tiny_model, chat_file, tmp_path, monkeypatch, request):
    """The compiled chat_completion (or its short form), its inputs and what its plan decides."""
    monkeypatch.chdir(tmp_path)
    file = COMPILED / f"chat_completion{getattr(request, 'param', '')}_pipeline.yaml"
    spec, platform = yaml.load_all(file.read_text(), yaml.CSafeLoader)
    inputs = spec["root"]["inputDefinitions"]["parameters"]
    given = {name: _typed(declared) for name, declared in inputs.items()}
    shutil.copytree(tiny_model, "base-model")  # the length of its path counts
    shutil.copyfile(chat_file, "train.jsonl")
    given |= {"pytorch_model_path": "base-model", "train_file_path": "train.jsonl"}
    given |= {"mlflow_server_uri": "http://mlflow.kubeflow:5000"}
    planned = plan("chat_completion", given, tmp_path / "plan", tmp_path / "plan.html")._asdict()
    return spec, platform, given, planned


def _typed(declared):
    value = declared["defaultValue"]
    return int(value) if declared["parameterType"] == "NUMBER_INTEGER" else value


def test_all_tasks_have_three_fifths_of_the_bytes_that_they_had_and_those_after_the_plan_half(run):
    sizes = bytes_of(*run)
    assert set(sizes) == set(BEFORE) - {"merge-adapter"}
    assert sum(sizes.values()) < 0.6 * sum(BEFORE.values()), sizes
    later = sum(sizes.values()) - sizes["plan"]
    assert later < 0.51 * (sum(BEFORE.values()) - BEFORE["plan"]), sizes


@pytest.mark.parametrize("run", ["_short"], indirect=True)
def test_a_run_of_the_short_form_has_less_than_half_of_the_bytes(run):
    sizes = bytes_of(*run)
    assert sum(sizes.values()) < 0.47 * sum(BEFORE.values()), sizes


def test_a_task_has_one_short_settings_text_and_only_inputs_that_it_uses(run):
    spec, platform, given, planned = run
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, component, values in tasks(spec, spec["root"], given, {"plan": planned}):
        if name == "plan":
            continue
        assert len(values.get("settings", "").encode()) < 1000, name
        own = {key for key in values if not key.startswith("pipelinechannel--")}
        assert own <= {"settings"}, name
        container = str(spec["deploymentSpec"]["executors"][component["executorLabel"]])
        for key in set(values) - own:
            placed = key.removeprefix("pipelinechannel--plan-") in str(settings[component["executorLabel"]])
            assert key in container or placed, (name, key)
