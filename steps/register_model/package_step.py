"""Write the tuned model in MLflow's format, whether or not it passed the gate or is registered."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from steps.artifacts import new_artifact
from steps.models.layout import COPY_FOLDER
from steps.params.settings import RegistrationSettings
from steps.register_model.candidate import read_unjudged
from steps.register_model.model_card import write_card
from steps.register_model.packaging import write_package

log = logging.getLogger("finetune")


def package_model(
    settings: RegistrationSettings,
    tuned: Path,
    merged: Path,
    evaluation: Path,
    mlflow_model: Path,
    tuned_uri: str = "",
    merged_uri: str = "",
) -> None:
    """Write `mlflow_model`, a folder that mlflow.pyfunc.load_model and mlflow_model_path read.

    Its model card says whether the gate passed. The weights stay where they are, at `tuned_uri` or `merged_uri` (empty:
    the present paths), and are copied into the folder with copy_weights_to_mlflow.
    Raises UserError if the weights are missing, or if the evaluation is of another model.
    """
    candidate = read_unjudged(settings, tuned, merged, evaluation, tuned_uri, merged_uri)
    inputs = {**candidate.digests, "weights": candidate.weights.manifest.digest}
    with new_artifact(mlflow_model, "mlflow_model", {"inputs": inputs}) as draft, TemporaryDirectory() as scratch:
        package = Path(scratch) / "package"
        write_package(package, candidate, write_card(candidate))
        shutil.copytree(package, draft.path, dirs_exist_ok=True)
        if candidate.copies:
            shutil.copytree(candidate.weights.folder, draft / COPY_FOLDER)
    log.info("the MLflow model is in %s", mlflow_model)
