"""Write the small MLflow model: everything except the weights."""

from __future__ import annotations

import json
import shutil
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from steps.adapters.layout import ADAPTER_FOLDER, kept_adapter_of
from steps.kinds import load
from steps.models.layout import MODEL_NAMES, TOKENIZER_NAMES
from steps.register_model.candidate import Candidate, is_chat
from steps.tasks import load_task

CODE = Path(__file__).with_name("pyfunc_model.py")
NO_TIME = "1970-01-01 00:00:00"
# URI scheme → package that reads it where the model is loaded.
CLIENTS = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "hf": "huggingface_hub",
}


def write_package(folder: Path, candidate: Candidate, card: str) -> None:
    """Write the MLflow model folder."""
    import mlflow.pyfunc
    from mlflow.models import Model

    settings, weights = candidate.settings, candidate.weights
    kept = kept_adapter_of(weights.folder) is not None
    reference = folder.with_name("reference")
    reference.mkdir()
    for name in sorted(weights.manifest.files):
        if name in TOKENIZER_NAMES | MODEL_NAMES and name != "README.md":
            shutil.copyfile(weights.folder / name, reference / name)
    (reference / "README.md").write_text(card, encoding="utf-8")
    described = {
        "weights_uri": weights.uri,
        "digest": weights.manifest.digest,
        "files": weights.manifest.files,
        "task": settings.task,
        "max_new_tokens": settings.max_new_tokens,
        "template_tokens": candidate.metrics.get("template_tokens", 0),
        "num_beams": settings.num_beams,
        "prompt_form": settings.prompt_form,
        "system_prompt": settings.system_prompt,
        "max_length": settings.max_length,
        "columns": settings.columns,
        **_of_task(settings.task),
        "chat": is_chat(candidate),
        "kept_adapter": ADAPTER_FOLDER if kept else "",
        "served": (served := settings.recipe.kind.served),
    }
    if served:
        shutil.copyfile(CODE.with_name(served), reference / served)
    (reference / "model_reference.json").write_text(json.dumps(described, indent=1), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns about a missing input example, with which it would run the model
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(CODE),
            artifacts={"reference": str(reference)},
            signature=load(settings.recipe.kind.signature)(settings, weights.folder, is_chat(candidate)),
            pip_requirements=requirements(
                weights.uri, candidate.evaluation.facts.get("versions", {}), kept, settings.recipe.kind.reads_images
            ),
            model_config={"weights_uri": ""},
            # Without a time and an id of their own, the same model gives the same files: a repetition replaces a file
            # by an equal one, so provenance and signature stay true. The version has its time in the registry.
            mlflow_model=Model(utc_time_created=NO_TIME, model_uuid=candidate.key[:32]),
        )
    # MLflow also writes where the files of the package came from: a folder of this step, which is deleted.
    described_in = folder / "MLmodel"
    text = described_in.read_text(encoding="utf-8")
    described_in.write_text(text.replace(str(reference), f"artifacts/{reference.name}"), encoding="utf-8")


def _of_task(name: str) -> dict[str, Any]:
    """Return what the task says about the answers of a registered model."""
    task = load_task(name)
    return {key.lower(): getattr(task, key) for key in ("TEXTS", "SCORED") if hasattr(task, key)}


def requirements(uri: str, versions: dict[str, str], kept_adapter: bool = False, images: bool = False) -> list[str]:
    """Return the packages for loading and predict, pinned to the evaluation's `versions`, else to those installed."""
    names = ["mlflow", "torch", "transformers", "safetensors", "jinja2", "fsspec"]
    if kept_adapter:
        names.append("peft")
    if images:
        names.append("pillow")
    if client := CLIENTS.get(uri.split("://", 1)[0]):
        names.append(client)
    return [_pinned(name, versions.get(name)) for name in names]


def _pinned(name: str, known: str | None) -> str:
    if known is None:
        try:
            known = version(name)
        except PackageNotFoundError:
            return name
    return f"{name}=={known.split('+')[0]}"  # a build tag such as +cpu is not on the package index
