"""The MLflow model of a pipeline's outputs: it exists whatever the gate says, and loads."""

import json
import shutil
from pathlib import Path

import pytest
from registering import METRICS, as_artifact, write_evaluation

from steps.artifacts import read_manifest
from steps.errors import UserError
from steps.models.layout import COPY_FOLDER
from steps.params.registration import RegistrationParams
from steps.params.settings import RegistrationSettings
from steps.register_model.package_step import package_model

FAILED = {**METRICS["gate"], "passed": False, "reason": "Failed: loss 5 does not beat the base model's 4."}


@pytest.fixture
def tuned(tiny_model, tmp_path):
    return as_artifact(tiny_model, tmp_path / "tuned")


def packaged(tuned: Path, folder: Path, gate: dict | None = None, copies: bool = False) -> Path:
    evaluation = write_evaluation(folder / f"evaluation-{bool(gate)}", tuned, **({"gate": gate} if gate else {}))
    registration = RegistrationParams(copy_weights_to_mlflow=copies)
    settings = RegistrationSettings(pipeline="chat_completion", task="chat_completion", registration=registration,
                                    max_new_tokens=4)  # fmt: skip
    package_model(settings, tuned, tuned, evaluation, folder / "mlflow_model")
    return folder / "mlflow_model"


def answer(folder: Path) -> list[str]:
    import mlflow.pyfunc
    import pandas as pd

    return mlflow.pyfunc.load_model(str(folder)).predict(pd.DataFrame({"prompt": ["hi"]}))


@pytest.mark.slow
def test_a_model_that_did_not_pass_is_written_and_answers_without_a_registry(tuned, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = packaged(tuned, tmp_path, FAILED)
    assert read_manifest(folder, "mlflow_model").lineage["inputs"]["weights"] == read_manifest(tuned).digest
    reference = json.loads((folder / "artifacts/reference/model_reference.json").read_text())
    assert reference["weights_uri"] == str(tuned)
    assert not (folder / COPY_FOLDER).exists()
    card = (folder / "artifacts/reference/README.md").read_text()
    assert FAILED["reason"] in card
    assert "set_tracking_uri" not in card
    assert len(answer(folder)) == 1


@pytest.mark.slow
def test_with_a_copy_it_needs_no_other_folder(tuned, tmp_path):
    folder = packaged(tuned, tmp_path, copies=True)
    expected = answer(folder)
    tuned.rename(tmp_path / "elsewhere")
    assert answer(folder) == expected


def test_an_evaluation_of_another_model_is_refused(tuned, tiny_model, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_model, tmp_path / "copy")
    (tmp_path / "copy/note.txt").write_text("another file")
    as_artifact(tmp_path / "copy", other)
    evaluation = write_evaluation(tmp_path / "evaluation", other)
    settings = RegistrationSettings(pipeline="chat_completion", task="chat_completion")
    with pytest.raises(UserError, match="REGISTER-E0206"):
        package_model(settings, tuned, tuned, evaluation, tmp_path / "mlflow_model")
    assert not (tmp_path / "mlflow_model").exists()
