"""The published pipelines: one file each, with a parameter model named after the file.

`text_classification.py` defines `TextClassificationParameters`. A new file here is a new pipeline: its flow, flags,
YAML, documentation and plan are generated from the model (`steps/params/pipeline.py` has its bases).
"""

import importlib
import pkgutil
from functools import cache
from typing import ClassVar

from steps.params.pipeline import PipelineParameters, SupervisedParameters
from steps.params.planned import SweepPlan
from steps.params.sweep import SweepParams

# Order of lists and pages; other pipelines that train a model follow these, then pipelines that do not train.
FIRST = (
    "chat_completion", "text_generation", "pretraining", "summarization", "translation", "text_classification",
    "token_classification", "question_answering", "preference", "grpo_chat_completion", "verl_finetune",
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
SWEEP = "_sweep"


def is_sweep(name: str) -> bool:
    """Return whether this is the name of a sweep over a pipeline that trains."""
    model = PARAMETER_MODELS.get(name.removesuffix(SWEEP))
    return name.endswith(SWEEP) and model is not None and issubclass(model, SupervisedParameters)


@cache
def sweep_model(name: str) -> type[PipelineParameters]:
    """Return the parameter model of a sweep: that of its pipeline, and the trials."""
    swept = PARAMETER_MODELS[name.removesuffix(SWEEP)]
    summary = (swept.__doc__ or "").splitlines()[0].rstrip(".")

    class Model(SweepParams, swept):  # type: ignore[misc, valid-type]
        planned: ClassVar[type[tuple]] = SweepPlan
        short_inputs: ClassVar[tuple[str, ...]] = (*SweepParams.model_fields, *swept.short_inputs)

    Model.__name__ = Model.__qualname__ = _class(name)
    Model.__doc__ = f"{summary}: many trials, of which the best one is registered."
    return Model


def model_of(name: str) -> type[PipelineParameters] | None:
    """Return the parameter model of a pipeline, or of a sweep; None for an unknown name."""
    return sweep_model(name) if is_sweep(name) else PARAMETER_MODELS.get(name)
