"""The run of a training holds its report, its verdict and the effective parameters, whether it is registered or not."""

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from registering import as_artifact, client, content, registered, settings, write_evaluation
from report_artifacts import write_evaluation as write_measured
from report_artifacts import write_plan

from steps.register_model.step import register_model
from steps.reports.page import REGISTERED
from steps.reports.step import report

pytestmark = pytest.mark.slow
EFFECTIVE = {
    "train_file_path": "s3://user:hunter2@b/train.jsonl", "gate_metric": "loss", "gate_min_value": -1.0,
    "learning_rate": 3e-3, "validation_file_path": "", "register_tuned_model": True,
}  # fmt: skip


@pytest.fixture
def trained(mlflow_store) -> str:
    """The run of a training, as finetune leaves it."""
    store = MlflowClient(mlflow_store)
    run = store.create_run("0")
    store.log_param(run.info.run_id, "training.learning_rate", "0.003")
    store.set_terminated(run.info.run_id)
    return run.info.run_id


def history_of(run_id: str) -> str:
    counts = {"total": 99, "trainable": 9}
    return json.dumps({"steps": 7, "seconds": 2.5, "parameters": counts, "mlflow_run_id": run_id})


def inputs_of(run_id: str) -> dict:
    return {"base": {}, "training": json.loads(history_of(run_id)), "data": {}}


def page_in(run_id: str, tmp_path: Path) -> str:
    return Path(client().download_artifacts(run_id, "report.html", str(tmp_path))).read_text()


def expect_facts(run_id: str, passed: str) -> None:
    data = client().get_run(run_id).data
    assert data.params.items() >= {"gate_metric": "loss", "training.learning_rate": "0.003"}.items()
    assert data.params["train_file_path"] == "s3://***@b/train.jsonl"
    assert not {"learning_rate", "validation_file_path"} & set(data.params)
    assert data.tags["gate.passed"] == passed
    assert data.tags["gate.reason"]


def test_the_report_of_a_registered_model_names_its_version(world, models, trained, tmp_path):
    plain = Path(shutil.copytree(models["tuned"], tmp_path / "plain"))
    (plain / "history.json").write_text(history_of(trained))
    tuned = as_artifact(plain, tmp_path / "tuned-2")
    page = tmp_path / "report.html"
    page.write_text(f"<h1>Run</h1>{REGISTERED}<p>{REGISTERED[5:]}</p>")
    given = {**world, "tuned": tuned, "evaluation": write_evaluation(tmp_path / "evaluation-2", tuned), "report": page}
    lineage = {"model": {"uri": "org/base", "digest": "c0ffee"}, "parameters": EFFECTIVE}
    register_model(settings(lineage=lineage), **given)
    told = "Registered as version 1 of normaliser (models:/normaliser@champion)."
    named = (given["registration"] / "report.html").read_text()
    assert named.startswith(f'<h1>Run</h1><p class="reason">{told}</p><p>{REGISTERED[5:]}</p>\n<!-- sha256 ')
    assert registered(given)["run_id"] == trained
    assert told in page_in(trained, tmp_path)
    expect_facts(trained, "True")
    assert content() == (1, 1, 1)


@pytest.fixture
def folders(tmp_path, trained, monkeypatch, mlflow_store) -> dict[str, Path]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    return {
        "plan": write_plan(tmp_path / "plan", effective=EFFECTIVE),
        "evaluation": write_measured(tmp_path / "evaluation", passed=False, inputs=inputs_of(trained)),
    }


@pytest.mark.parametrize("case", ["refused", "not wanted", "registered", "switched off", "no server", "down"])
def test_the_report_of_a_model_that_is_not_registered_is_in_its_run_too(folders, trained, tmp_path, monkeypatch, case):
    if case in ("not wanted", "registered"):
        folders["evaluation"] = write_measured(tmp_path / "passed", inputs=inputs_of(trained))
        wanted = {**EFFECTIVE, "register_tuned_model": case == "registered"}
        folders["plan"] = write_plan(tmp_path / "plan-2", effective=wanted)
    elif case == "switched off":
        monkeypatch.setenv("DISABLE_MLFLOW_INTEGRATION", "1")
    elif case == "down":
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        down = {**EFFECTIVE, "mlflow_server_uri": "http://127.0.0.1:9"}
        folders["plan"] = write_plan(tmp_path / "plan-2", effective=down)
    elif case == "no server":
        folders["evaluation"] = write_measured(tmp_path / "untracked", passed=False, inputs={"training": {}})
    report(**folders, report=tmp_path / "report.html")
    sent = [file.path for file in client().list_artifacts(trained)]
    assert (tmp_path / "report.html").is_file()
    assert sent == (["report.html"] if case in ("refused", "not wanted") else [])
    if sent:
        assert REGISTERED in page_in(trained, tmp_path) or case == "refused"
        expect_facts(trained, "True" if case == "not wanted" else "False")
