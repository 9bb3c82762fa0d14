"""The images contain exactly what their steps need, and steps give the same results in them as outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from conftest import build_model, chat_rows, write_jsonl
from container_engine import REPOSITORY, build, docker

from pipelines import components
from pipelines.images import CORE, IMAGES, TRAIN
from steps import STEPS
from steps.params.data import Preprocessing
from steps.params.settings import DataSettings, FinetuneSettings, ImportSettings, Resolved
from steps.params.training import CheckpointParams, TrainingParams
from steps.sources.storage import digest_of

pytest_plugins = ["container_fixtures"]
pytestmark = [
    pytest.mark.containers,
    pytest.mark.filterwarnings("ignore:.*have no effect in the current local runner"),
]

CODE_LAYERS = 4  # at the end of each image: three COPY and the installation of this project
LEFT_OUT = [
    line
    for line in (REPOSITORY / "containers/core/left-out.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the images' user may write to; it is mounted under its own name."""
    folder = tmp_path_factory.mktemp("work")
    folder.chmod(0o777)
    return folder


@pytest.fixture(scope="session")
def rows(work: Path) -> Path:
    return write_jsonl(work / "chat.jsonl", chat_rows(60))


@pytest.fixture(scope="session")
def user_model(work: Path) -> Path:
    build_model(work / "tiny")
    (work / "tiny/model.safetensors").chmod(0o644)  # safetensors writes 0600, unreadable for the images' user
    return work / "tiny"


@pytest.fixture(scope="session")
def imported(core: str, work: Path, user_model: Path) -> Path:
    """A folder with the artifacts model and tokenizer, made by import-model in the core image."""
    settings = ImportSettings(kind="pytorch", source=_resolved(user_model))
    _step(core, work, "import-model", settings=settings, model=work / "model", tokenizer=work / "tokenizer")
    return work


@pytest.fixture(scope="session")
def data(core: str, work: Path, imported: Path, rows: Path) -> Path:
    """A data artifact, made by prepare-data in the core image."""
    settings = DataSettings(task="chat_completion", train=_resolved(rows), preprocessing=Preprocessing(), max_length=64)
    places = {"tokenizer": imported / "tokenizer", "data": work / "data", "report": work / "data.html"}
    _step(core, work, "prepare-data", settings=settings, **places)
    return work / "data"


def _resolved(path: Path) -> Resolved:
    return Resolved(uri=str(path), digest=digest_of("path", str(path)))


def _hardened(*mounts: str) -> list[str]:
    """The strictest way to run: no network, nothing writable but /tmp and what is mounted for writing."""
    return [
        "--network",
        "none",
        "--read-only",
        "--tmpfs",
        "/tmp",
        *[word for mount in mounts for word in ("-v", mount)],
    ]


def _run(image: str, *command: str, mounts: tuple[str, ...] = (), check: bool = True) -> subprocess.CompletedProcess:
    return docker("run", "--rm", *_hardened(*mounts), image, *command, check=check)


def _words(name: str, **arguments: object) -> list[str]:
    settings = arguments.pop("settings")
    flags = [word for key, value in arguments.items() for word in (f"--{key}", str(value))]
    return ["python", "-m", "steps", name, "--settings", settings.model_dump_json(), *flags]


def _step(image: str, work: Path, name: str, **arguments: object) -> None:
    _run(image, *_words(name, **arguments), mounts=(f"{work}:{work}",))


def _layers(image: str) -> list[str]:
    return json.loads(docker("image", "inspect", "-f", "{{json .RootFS.Layers}}", image).stdout)


def _images_of_steps() -> set[tuple[str, str]]:
    """Every step that a component runs, with its image; finetune has two."""
    built = (getattr(value, "component_spec", None) for value in vars(components).values())
    return {(spec.name.replace("_", "-"), spec.implementation.container.image) for spec in built if spec}


def _steps_in(image: str) -> list[str]:
    return sorted(name for name, used in _images_of_steps() if used == image)


def test_every_component_runs_a_step_in_an_image_of_this_project():
    assert {image for _, image in _images_of_steps()} == set(IMAGES)
    assert {name for name, _ in _images_of_steps()} <= set(STEPS)


def test_the_core_image_has_no_torch_and_everything_its_steps_import(core):
    program = """
import importlib.util, sys
import kfp, matplotlib.pyplot, mlflow, pyarrow.parquet, s3fs, trl.chat_template_utils
from transformers import AutoTokenizer
from steps.running import load
[load(step) for step in sys.argv[2:]]
print([name for name in sys.argv[1].split() if importlib.util.find_spec(name)])
"""
    done = _run(core, "python", "-c", program, " ".join(LEFT_OUT), "plan", *_steps_in(CORE))
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_train_image_has_the_training_stack_and_everything_its_steps_import(train):
    program = """
import sys
import accelerate, kfp, mlflow, peft, rouge_score, sacrebleu, torch
from trl import SFTConfig, SFTTrainer
from steps.running import load
[load(step) for step in sys.argv[1:]]
print(torch.__version__)
"""
    done = _run(train, "python", "-c", program, *_steps_in(TRAIN))
    locked = (REPOSITORY / "requirements.txt").read_text()
    assert f"torch=={done.stdout.splitlines()[-1].split('+')[0]}\n" in locked


def test_no_package_of_the_train_image_misses_another(train):
    done = _run(train, "pip", "--python", "/opt/finetune", "check", check=False)
    assert done.returncode == 0, done.stdout


def test_in_the_core_image_only_trl_and_this_project_miss_what_was_left_out(core):
    done = _run(core, "pip", "--python", "/opt/finetune", "check", check=False)
    missing = [(line.split()[0], line.split()[3].rstrip(",")) for line in done.stdout.splitlines()]
    assert {who for who, _ in missing} == {"finetune-pipelines", "trl"}
    assert {what for _, what in missing} <= set(LEFT_OUT)


def test_both_images_share_the_layers_of_the_common_packages(core, train):
    common = _layers(core)[:-CODE_LAYERS]
    assert common == _layers(train)[: len(common)]


def test_a_change_of_the_code_installs_no_package_again(core, base, tmp_path):
    for name in ("requirements.txt", "pyproject.toml", "README.md", ".dockerignore"):
        shutil.copy2(REPOSITORY / name, tmp_path / name)
    for name in ("containers", "pipelines", "steps"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    with open(tmp_path / "steps/__init__.py", "a") as file:
        file.write("# changed\n")
    changed = "finetune-pipelines-core:changed"
    build(changed, "core", base, context=tmp_path)
    try:
        assert _layers(changed) != _layers(core)
        assert _layers(changed)[:-CODE_LAYERS] == _layers(core)[:-CODE_LAYERS]
    finally:
        docker("rmi", changed)


@pytest.mark.parametrize("image", ["core", "train"])
def test_the_user_is_no_root_and_may_write_only_where_it_must(image, request):
    name = request.getfixturevalue(image)
    assert docker("image", "inspect", "-f", "{{.Config.User}}", name).stdout.strip() == "1000"
    found = docker(
        "run", "--rm", "--network", "none", name, "find", "/", "-xdev", "-type", "d", "-writable", check=False
    )
    for_everybody = {"/tmp", "/var/tmp", "/run/lock"}
    assert set(found.stdout.split()) - for_everybody == {"/s3", "/minio", "/gcs", "/home/finetune"}


def _plan(core: str, user_model: Path, rows: Path, out: Path, **more: object) -> subprocess.CompletedProcess:
    arguments = {
        "pytorch_model_path": str(user_model), "train_file_path": str(rows), "register_tuned_model": False, **more
    }  # fmt: skip
    out.mkdir()
    out.chmod(0o777)
    return _run(
        core, "python", "-m", "steps", "plan", "--pipeline", "chat_completion", "--arguments", json.dumps(arguments),
        "--plan", "/out/plan", "--report", "/out/plan.html",
        mounts=(f"{user_model}:{user_model}:ro", f"{rows}:{rows}:ro", f"{out}:/out"), check=False,
    )  # fmt: skip


def test_a_plan_of_a_model_mounted_read_only_exits_0(core, user_model, rows, tmp_path):
    done = _plan(core, user_model, rows, tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "out/plan/plan.json").read_text())["pipeline"] == "chat_completion"
    assert "<html" in (tmp_path / "out/plan.html").read_text()


def test_a_wrong_parameter_exits_2_and_names_the_fix(core, user_model, rows, tmp_path):
    done = _plan(core, user_model, rows, tmp_path / "out", overrides={"learning_rate": 0})
    assert done.returncode == 2, done.stdout + done.stderr
    outcome = json.loads(done.stderr.splitlines()[-1])
    assert (outcome["code"], outcome["where"]) == (2, "learning_rate")
    assert not (tmp_path / "out/plan").exists()


def test_prepare_data_runs_without_network_on_a_read_only_file_system(data):
    facts = json.loads((data / "manifest.json").read_text())["facts"]
    assert sum(split["rows"] for split in facts["splits"].values()) == 60


def test_a_training_that_is_asked_to_stop_saves_a_checkpoint_and_exits_143(train, work, imported, data):
    settings = FinetuneSettings(
        pipeline="chat_completion",
        training=TrainingParams(num_train_epochs=5000, per_device_train_batch_size=4, optim="adamw_torch"),
        checkpoints=CheckpointParams(checkpoint_dir=str(work / "kept"), save_steps=5),
        max_length=64,
    )
    places = {"model": imported / "model", "data": data, "tuned": work / "tuned", "checkpoints": work / "checkpoints"}
    words = _words("finetune", settings=settings, **places, report=work / "tuned.html")
    name = f"finetune-{os.getpid()}"
    docker("run", "--detach", "--name", name, *_hardened(f"{work}:{work}"), train, *words)
    try:
        _wait_for(lambda: list(work.glob("kept/*/*/checkpoint-5/manifest.json")), name)
        docker("kill", "--signal", "TERM", name)
        code = int(docker("wait", name, timeout=60).stdout)
        outcome = json.loads(docker("logs", name).stderr.splitlines()[-1])
    finally:
        docker("rm", "--force", name)
    assert code == outcome["code"] == 143
    assert Path(outcome["resume_from"], "manifest.json").is_file()
    assert not (work / "tuned").exists()


def _wait_for(happened, container: str) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        running = docker("inspect", "-f", "{{.State.Running}}", container).stdout.strip() == "true"
        assert running, docker("logs", container).stderr
        assert time.monotonic() < deadline, docker("logs", container).stdout
        time.sleep(0.2)


def test_a_whole_pipeline_runs_in_the_images_without_network(core, train, user_model, rows, work):
    from kfp import local

    from pipelines.supervised import chat_completion

    root = work / "pipeline"
    root.mkdir()
    root.chmod(0o777)
    # kfp mounts its root and nothing else.
    model = shutil.copytree(user_model, root / "tiny")
    file = shutil.copyfile(rows, root / "chat.jsonl")
    where = {"FINETUNE_ROOT": f"{root}/kept", "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db"}
    runner = local.DockerRunner(network_mode="none", read_only=True, tmpfs={"/tmp": ""}, environment=where)
    local.init(runner=runner, pipeline_root=str(root), raise_on_error=True)
    given = {
        "pytorch_model_path": str(model), "train_file_path": str(file), "max_seq_length": 64,
        "number_of_gpu_to_use_finetuning": 0, "num_train_epochs": 3, "learning_rate": 1e-2,
        "per_device_train_batch_size": 8, "evaluation_max_new_tokens": 4, "apply_lora": True,
    }  # fmt: skip
    outputs = chat_completion(overrides=given).outputs
    assert outputs["passed"] is True
    assert "<html" in Path(outputs["report"].path).read_text()
    assert [json.loads(found.read_text())["version"] for found in root.rglob("registration.json")] == ["1"]
