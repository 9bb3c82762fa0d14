"""The published pipelines: one file each, with a parameter model named after the file.

`text_classification.py` defines `TextClassificationParameters`. A new file here is a new pipeline: its flow, flags,
YAML, documentation and plan are generated from the model (`steps/params/pipeline.py` has its bases).
"""

import importlib
import pkgutil

from steps.params.pipeline import PipelineParameters

# Order of lists and pages; other pipelines follow these.
FIRST = (
    "chat_completion", "text_generation", "pretraining", "summarization", "translation", "text_classification",
    "token_classification", "question_answering", "preference",
)  # fmt: skip


def _found() -> dict[str, type[PipelineParameters]]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    names.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    return {name: getattr(importlib.import_module(f"{__name__}.{name}"), _class(name)) for name in names}


def _class(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_")) + "Parameters"


# Pipeline name → its parameter model; used by the plan and the catalogue.
PARAMETER_MODELS: dict[str, type[PipelineParameters]] = _found()
