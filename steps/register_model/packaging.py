"""The small MLflow model: everything but the weights."""

from __future__ import annotations

import json
import shutil
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from steps.adapters.layout import ADAPTER_FOLDER, kept_adapter_of
from steps.models.layout import CONFIG, MODEL_NAMES, TOKENIZER_NAMES
from steps.params.settings import RegistrationSettings
from steps.register_model.candidate import Candidate

CODE = Path(__file__).with_name("pyfunc_model.py")
# What the model puts out (`head` of the settings) → the file that answers in place of pyfunc_model.py's CausalModel.
SERVED = {
    "masked_lm": "served_words.py",
    "sequence_classification": "served_labels.py",
    "token_classification": "served_tags.py",
    "seq2seq_lm": "served_texts.py",
    "question_answering": "served_answers.py",
}
# What opens a URI of this scheme, wherever the model is loaded.
CLIENTS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "hf": "huggingface_hub"}


def write_package(folder: Path, candidate: Candidate, card: str) -> None:
    """Write the MLflow model folder."""
    import mlflow.pyfunc

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
        "num_beams": settings.num_beams,
        "prompt_form": settings.prompt_form,
        "max_length": settings.max_length,
        "columns": settings.columns,
        "chat": is_chat(candidate),
        "kept_adapter": ADAPTER_FOLDER if kept else "",
        "served": (served := SERVED.get(settings.head, "")),
    }
    if served:
        shutil.copyfile(CODE.with_name(served), reference / served)
    (reference / "model_reference.json").write_text(json.dumps(described, indent=1), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow asks for an input example, which it would have to run the model with
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(CODE),
            artifacts={"reference": str(reference)},
            signature=signature(settings, weights.folder, is_chat(candidate)),
            pip_requirements=requirements(weights.uri, candidate.evaluation.facts.get("versions", {}), kept),
            model_config={"weights_uri": ""},
        )


def is_chat(candidate: Candidate) -> bool:
    """Whether the model was tuned on conversations; of preferences the evaluation knows."""
    told = candidate.metrics.get("preferences", {}).get("chat", False)
    return candidate.settings.task == "chat_completion" or bool(told)


def requirements(uri: str, versions: dict[str, str], kept_adapter: bool = False) -> list[str]:
    """List what loading and answering needs, pinned to the `versions` of the evaluation, else to those here."""
    names = ["mlflow", "torch", "transformers", "safetensors", "jinja2", "fsspec"]
    if kept_adapter:
        names.append("peft")
    if client := CLIENTS.get(uri.split("://", 1)[0]):
        names.append(client)
    return [_pinned(name, versions.get(name)) for name in names]


def signature(settings: RegistrationSettings, folder: Path, chat: bool) -> Any:
    """Say what goes in and out: conversations or prompts for a chat model, texts for any other.

    `folder` holds the model's configuration.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType, Array, Object, Property

    if settings.head == "masked_lm":
        return _of_words()
    if settings.head == "token_classification":
        return _of_tags()
    if settings.head == "question_answering":
        return _of_answers()
    if settings.head == "sequence_classification":
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return _of_labels(settings, config.get("problem_type") == "multi_label_classification")
    if chat:
        text = DataType.string
        message = Object(
            [
                Property("role", text),
                Property("content", text, required=False),
                Property("name", text, required=False),
                Property("tool_call_id", text, required=False),
                Property("tool_calls", AnyType(), required=False),
            ]
        )
        inputs = Schema(
            [ColSpec(Array(message), "messages", required=False), ColSpec("string", "prompt", required=False)]
        )
    else:
        inputs = Schema([ColSpec("string")])
    params = ParamSchema([ParamSpec("max_new_tokens", "long", settings.max_new_tokens)])
    return ModelSignature(inputs=inputs, outputs=Schema([ColSpec("string")]), params=params)


def _of_words() -> Any:
    """Texts with masks become the same texts with words, and the words with their probabilities."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    put_in = [ColSpec(Array(DataType.string), "words"), ColSpec(Array(DataType.double), "probabilities")]
    return ModelSignature(inputs=Schema([ColSpec("string")]), outputs=Schema([ColSpec("string", "text"), *put_in]))


def _of_tags() -> Any:
    """Texts become lists of words and of their tags."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    lists = Array(DataType.string)
    return ModelSignature(
        inputs=Schema([ColSpec("string")]), outputs=Schema([ColSpec(lists, "words"), ColSpec(lists, "tags")])
    )


def _of_answers() -> Any:
    """Questions with their contexts become answers, with their place and score."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    outputs = Schema([ColSpec("string", "answer"), ColSpec("long", "start"), ColSpec("double", "score")])
    inputs = Schema([ColSpec("string", name) for name in ("question", "context")])
    return ModelSignature(inputs=inputs, outputs=outputs)


def _of_labels(settings: RegistrationSettings, several: bool) -> Any:
    """Texts, or pairs of texts by column, become a label with its probability, or lists of both."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    one = Schema([ColSpec("string", "label"), ColSpec("double", "probability")])
    lists = Schema([ColSpec(Array(DataType.string), "labels"), ColSpec(Array(DataType.double), "probabilities")])
    pair = Schema([ColSpec("string", "sentence1"), ColSpec("string", "sentence2")])
    inputs = pair if settings.pairs else Schema([ColSpec("string")])
    return ModelSignature(inputs=inputs, outputs=lists if several else one)


def _pinned(name: str, known: str | None) -> str:
    if known is None:
        try:
            known = version(name)
        except PackageNotFoundError:
            return name
    return f"{name}=={known.split('+')[0]}"  # a build tag such as +cpu is not on the package index
