"""The published pipelines: one file for each, with the parameter model that its name promises.

`text_classification.py` holds `TextClassificationParameters`. A new file here is a new pipeline: its flow, flags, YAML,
documentation and plan follow from the model (`steps/params/pipeline.py` has its bases).
"""

import importlib
import pkgutil

from steps.params.pipeline import PipelineParameters, SupervisedParameters

# The order of lists and pages; others that train a model come behind these, and then those that train none.
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


# Pipeline name → its parameters; the plan and the catalogue read it.
PARAMETER_MODELS: dict[str, type[PipelineParameters]] = _found()
