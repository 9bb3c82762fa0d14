"""The published pipelines: one file each, with a parameter model named after the file.

`text_classification.py` defines `TextClassificationParameters`. A new file here is a new pipeline: its flow, flags,
YAML, documentation and plan are generated from the model (`steps/params/pipeline.py` has its bases).
"""

import importlib
import pkgutil

from steps.params.pipeline import PipelineParameters, SupervisedParameters

# Order of lists and pages; other pipelines that train a model follow these, then pipelines that do not train.
FIRST = (
    "chat_completion", "text_generation", "pretraining", "summarization", "translation", "text_classification",
    "token_classification", "question_answering", "preference",
)  # fmt: skip


def _found() -> dict[str, type[PipelineParameters]]:
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    found = {name: getattr(importlib.import_module(f"{__name__}.{name}"), _class(name)) for name in names}
    return {name: found[name] for name in sorted(found, key=lambda name: _place(name, found[name]))}


def _place(name: str, model: type[PipelineParameters]) -> tuple[bool, int, str]:
    return not issubclass(model, SupervisedParameters), FIRST.index(name) if name in FIRST else len(FIRST), name


def _class(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_")) + "Parameters"


# Pipeline name → its parameter model; used by the plan and the catalogue.
PARAMETER_MODELS: dict[str, type[PipelineParameters]] = _found()
