"""MLflow signatures (input and output schemas) of registered models: one function for each kind of output.

Each takes the settings, the folder with the model's configuration, and whether the model answers conversations; the
record of a model kind names its function (`steps/kinds/models`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steps.models.layout import CONFIG
from steps.params.settings import RegistrationSettings
from steps.tasks import load_task


def of_prompts(settings: RegistrationSettings, folder: Path, chat: bool) -> Any:
    """Conversations or prompts (chat model) or texts (other models) → texts."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType, Array, Object, Property

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
            [
                ColSpec(Array(message), "messages", required=False),
                ColSpec("string", "prompt", required=False),
                ColSpec(AnyType(), "tools", required=False),
            ]
        )
    else:
        inputs = Schema([ColSpec("string")])
    params = ParamSchema([ParamSpec("max_new_tokens", "long", settings.max_new_tokens)])
    return ModelSignature(inputs=inputs, outputs=Schema([ColSpec("string")]), params=params)


def of_images(settings: RegistrationSettings, folder: Path, chat: bool) -> Any:
    """Prompts, each with its images in base64 or as data URIs → texts."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    inputs = Schema([ColSpec("string", "prompt"), ColSpec(Array(DataType.string), "images", required=False)])
    params = ParamSchema([ParamSpec("max_new_tokens", "long", settings.max_new_tokens)])
    return ModelSignature(inputs=inputs, outputs=Schema([ColSpec("string")]), params=params)


def of_words(settings: RegistrationSettings, folder: Path, chat: bool) -> Any:
    """Texts with masks → texts with the masks filled, words and their probabilities."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    put_in = [ColSpec(Array(DataType.string), "words"), ColSpec(Array(DataType.double), "probabilities")]
    return ModelSignature(inputs=Schema([ColSpec("string")]), outputs=Schema([ColSpec("string", "text"), *put_in]))


def of_tags(settings: RegistrationSettings, folder: Path, chat: bool) -> Any:
    """Texts → lists of words and of their tags."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    lists = Array(DataType.string)
    return ModelSignature(
        inputs=Schema([ColSpec("string")]), outputs=Schema([ColSpec(lists, "words"), ColSpec(lists, "tags")])
    )


def of_answers(settings: RegistrationSettings, folder: Path, chat: bool) -> Any:
    """Questions with contexts → answers, with offset and score."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    outputs = Schema([ColSpec("string", "answer"), ColSpec("long", "start"), ColSpec("double", "score")])
    inputs = Schema([ColSpec("string", name) for name in ("question", "context")])
    return ModelSignature(inputs=inputs, outputs=outputs)


def of_labels(settings: RegistrationSettings, folder: Path, chat: bool) -> Any:
    """Texts, or pairs of texts in columns → a label with its probability (and a score), or lists of both."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    several = config.get("problem_type") == "multi_label_classification"
    task = load_task(settings.task)
    score = [ColSpec("double", "score")] if hasattr(task, "SCORED") else []
    one = Schema([ColSpec("string", "label"), ColSpec("double", "probability"), *score])
    lists = Schema([ColSpec(Array(DataType.string), "labels"), ColSpec(Array(DataType.double), "probabilities")])
    pair = Schema([ColSpec("string", name) for name in getattr(task, "TEXTS", ("sentence1", "sentence2"))])
    inputs = pair if settings.pairs else Schema([ColSpec("string")])
    return ModelSignature(inputs=inputs, outputs=lists if several else one)
