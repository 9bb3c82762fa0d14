"""Tools for a trained adapter."""

from typing import ClassVar

from steps.params.adapter_tools import AdapterWork
from steps.params.compute import ImportCompute
from steps.params.model_source import ModelSource
from steps.params.pipeline import PipelineParameters
from steps.params.planned import AdapterToolsPlan
from steps.params.registration import MlflowServer


class AdapterToolsParameters(PipelineParameters, ImportCompute, AdapterWork, MlflowServer, ModelSource):
    """Merge a trained adapter, make it loadable by vLLM, rename tokens, or check whether it fits a base model."""

    planned: ClassVar[type[tuple]] = AdapterToolsPlan
