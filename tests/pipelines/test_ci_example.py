"""The example of a CI workflow: every command of it works, and drift of a compiled pipeline stops it."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from kfp_server import tasks

ROOT = Path(__file__).parents[2]
STEPS = yaml.safe_load((ROOT / "docs/github-workflow.yaml").read_text())["jobs"]["fine-tune"]["steps"]
COMMANDS = [line for step in STEPS for line in step.get("run", "").splitlines() if line.startswith("finetune ")]
EXPERIMENT = """\
pytorch_model_path: s3://models/base
train_file_path: s3://data/chat.jsonl
mlflow_server_uri: http://mlflow:5000
learning_rate: 1e-4
"""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT)
    (tmp_path / "cluster.yaml").write_text("images: {registry: registry.example.com/team}\n")
    return tmp_path


def words(command: str) -> list[str]:
    return [re.sub(r"\$\{\w+::8\}", "0a1b2c3d", word) for word in shlex.split(command)[1:]]


@pytest.mark.slow
def test_every_command_of_the_workflow_works(repository, kfp_server, finetune):
    kfp_server.progress = [tasks("SUCCEEDED")]
    assert [words(command)[0] for command in COMMANDS] == ["compile", "submit"]
    for command in COMMANDS:
        flags = [word for word in words(command) if word != "--gate-exit"]  # its run has no gate
        done = finetune(*flags)
        assert done.code == 0, done.err
    (compiled,) = (repository / "pipelines").iterdir()
    assert compiled.name == "dates_pipeline.yaml"
    first = compiled.read_bytes()
    assert finetune(*words(COMMANDS[0])).code == 0
    assert compiled.read_bytes() == first  # so a difference is a change of somebody
    (repository / "experiment.yaml").write_text(EXPERIMENT.replace("1e-4", "2e-4"))
    assert finetune(*words(COMMANDS[0])).code == 0
    assert compiled.read_bytes() != first
