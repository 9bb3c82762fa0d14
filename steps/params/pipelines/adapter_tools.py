"""A finished adapter, and what is done with it."""

from typing import ClassVar

from steps.params.adapter_tools import AdapterWork
from steps.params.compute import ImportCompute
from steps.params.model_source import ModelSource
from steps.params.pipeline import PipelineParameters
from steps.params.planned import AdapterToolsPlan


class AdapterToolsParameters(PipelineParameters, ImportCompute, AdapterWork, ModelSource):
    """Work on a finished adapter: merge it, make it ready for vLLM, rename tokens, or check whether it fits a base."""

    planned: ClassVar[type[tuple]] = AdapterToolsPlan
