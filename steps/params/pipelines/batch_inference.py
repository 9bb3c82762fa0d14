"""Answers to many prompts."""

from collections.abc import Iterator
from typing import ClassVar

from steps.errors import Problem
from steps.params.chat_columns import PromptColumns
from steps.params.data import ChatTemplate
from steps.params.evaluation import EvaluationConfig
from steps.params.generation import DecodingParams, EngineParams
from steps.params.inference import GeneratedOutput, InferenceCompute, PromptSource
from steps.params.input_adapter import AdapterSource
from steps.params.model_source import SOURCE_PARAMETER, ModelSource
from steps.params.pipeline import PipelineParameters
from steps.params.planned import BatchInferencePlan
from steps.params.quantisation import QuantisationParams
from steps.params.registration import MlflowServer


class BatchInferenceParameters(
    PipelineParameters,
    MlflowServer,
    EvaluationConfig,
    InferenceCompute,
    GeneratedOutput,
    EngineParams,
    DecodingParams,
    QuantisationParams,
    ChatTemplate,
    PromptColumns,
    PromptSource,
    AdapterSource,
    ModelSource,
):
    """Answer many prompts with a model, its adapter or a server, and score answers where the right ones are known."""

    planned: ClassVar[type[tuple]] = BatchInferencePlan
    rows_task: ClassVar[str] = "prompts"
    loads_weights: ClassVar[bool] = True
    needed: ClassVar[tuple[tuple[str, ...], ...]] = (
        (*PipelineParameters.needed[0], "endpoint_url"),
        ("test_file_path", "dataset_name", "prompt_conf"),
    )
    short_inputs: ClassVar[tuple[str, ...]] = (
        "huggingface_id", "pytorch_model_path", "adapter_path", "test_file_path", "reference_key", "inference_type",
        "endpoint_url", "max_new_tokens", "max_length", "do_sample", "temperature", "test_batch_size", "load_in_4bit",
        "number_of_gpu_to_use_inference", "instance_type_inference", "s3_upload_dir",
    )  # fmt: skip

    @property
    def adapter_use(self) -> str:
        """How adapter_path is used: nothing is trained, so it is never continued."""
        return "merge"

    @property
    def needs_model(self) -> bool:
        """Whether a model is imported; a server has its own."""
        return self.inference_type != "endpoint"

    def conflicts(self) -> Iterator[Problem]:
        """Refuse a model or an adapter for a server, and adapter_separate without an adapter."""
        if not self.needs_model:
            for name in (*SOURCE_PARAMETER.values(), "adapter_path"):
                if getattr(self, name):
                    yield Problem("PARAM-E0318", name, "set with inference_type=endpoint", "nothing",
                                  f"leave {name} out, or set another inference_type",
                                  why="the server has its own model")  # fmt: skip
        if self.adapter_separate and not self.adapter_path:
            yield Problem("PARAM-E0317", "adapter_separate", "true without an adapter", "false, or an adapter",
                          "set adapter_path, or leave it out")  # fmt: skip
