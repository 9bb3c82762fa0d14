"""The published pipelines, by name; importing this file imports neither kfp nor a pipeline."""

import importlib
from dataclasses import dataclass
from typing import Any

from steps.errors import Problem, UserError, nearest, shown
from steps.params.pipeline import PipelineParameters, SupervisedParameters
from steps.params.pipelines import PARAMETER_MODELS, SWEEP, is_sweep, model_of


@dataclass(frozen=True)
class Published:
    """A pipeline that users can run, compile and schedule."""

    name: str
    module: str
    """Module that defines its function, which has the name of the pipeline."""

    @property
    def parameters(self) -> type[PipelineParameters]:
        """The parameter model."""
        model = model_of(self.name)
        assert model is not None
        return model

    @property
    def trains(self) -> bool:
        """Whether it trains a model."""
        return issubclass(self.parameters, SupervisedParameters)

    @property
    def swept(self) -> str:
        """The pipeline that a sweep is over; of any other pipeline its own name."""
        return self.name.removesuffix(SWEEP) if is_sweep(self.name) else self.name

    @property
    def summary(self) -> str:
        """One sentence: the first line of its parameter model's docstring."""
        return (self.parameters.__doc__ or "").splitlines()[0]

    def load(self, form: Any = None) -> Any:
        """Import and return the pipeline, or one of its forms (`form.py`); imports kfp."""
        whole = getattr(importlib.import_module(self.module), self.name)
        if form is None or form.name == self.name:  # a sweep has one form
            return whole
        from pipelines.signature import pipeline

        return pipeline(self.parameters, form)(whole.flow)


# Pipelines with their own task graph; all others use that of pipelines.supervised.
FLOWS = {
    "adapter_tools": "pipelines.adapter_tools",
    "batch_inference": "pipelines.batch_inference",
    "grpo_chat_completion": "pipelines.grpo",
    "verl_finetune": "pipelines.verl",
}

# Pipelines whose sweep is compiled with them; any other that trains is by `finetune compile PIPELINE --sweep`.
SWEPT = ("chat_completion", "text_classification")

PIPELINES = {name: Published(name, FLOWS.get(name, "pipelines.supervised")) for name in PARAMETER_MODELS}


def found(name: str) -> Published | None:
    """Return the pipeline of a name, or the sweep over one; also with hyphens. None for an unknown one."""
    known = name.replace("-", "_")
    return Published(known, "pipelines.swept") if is_sweep(known) else PIPELINES.get(known)


def published_as(name: str) -> Published:
    """Do the same. Raises UserError with the nearest for an unknown one."""
    if published := found(name):
        return published
    fix = nearest(name, PIPELINES) or "see `finetune list`"
    raise UserError(Problem("PARAM-E0100", "pipeline", shown(name), f"one of {', '.join(PIPELINES)}", fix))
