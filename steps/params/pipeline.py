"""Base classes of the pipelines' parameter models (`pipelines/` has one file for each pipeline).

Base classes are listed in reverse order, because pydantic collects fields from the last base to the first.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import Field

from steps.errors import Problem
from steps.kinds.adapters import ADAPTER_KINDS, put_into
from steps.params.batch import BatchParams
from steps.params.compute import ComputeParams
from steps.params.data import DataSource, Preprocessing
from steps.params.deepspeed import DeepSpeedParams
from steps.params.distributed import DistributedParams
from steps.params.evaluation import EvaluationParams
from steps.params.group import Group
from steps.params.input_adapter import InputAdapter
from steps.params.lora import LoraParams
from steps.params.model_source import SOURCE_PARAMETER, ModelSource
from steps.params.nodes import NodeParams
from steps.params.planned import Plan
from steps.params.quantisation import QuantisationParams
from steps.params.registration import RegistrationParams, TrackingParams
from steps.params.training import CheckpointParams, TrainingParams
from steps.params.vocabulary import VocabularyParams

# Inputs of the short form of every pipeline that trains; each adds those of its task.
COMMON_INPUTS = (
    "huggingface_id", "pytorch_model_path", "train_file_path", "validation_file_path", "test_file_path",
    "num_train_epochs", "learning_rate", "total_train_batch_size", "max_seq_length", "apply_lora",
    "number_of_gpu_to_use_finetuning", "instance_type_finetune", "gate_metric", "registered_model_name",
    "mlflow_server_uri",
)  # fmt: skip


class PipelineParameters(Group):
    """Parameters of every pipeline."""

    planned: ClassVar[type[tuple]] = Plan
    """Type of the plan's outputs for the later tasks."""

    short_inputs: ClassVar[tuple[str, ...]] = ()
    """Inputs of the short form of the compiled pipeline: those that most runs need."""

    needed: ClassVar[tuple[tuple[str, ...], ...]] = (tuple(SOURCE_PARAMETER.values()),)
    """A run needs one parameter of each group."""

    loads_weights: ClassVar[bool] = False
    """Whether a task of it computes with a model, for which a local run loads the libraries while others run."""

    overrides: dict[str, Any] = Field(default_factory=dict)
    """Any parameters by name, as JSON; they override the other fields (for sweeps and configuration files)."""


class SupervisedParameters(
    PipelineParameters,
    RegistrationParams,
    TrackingParams,
    EvaluationParams,
    NodeParams,
    ComputeParams,
    CheckpointParams,
    TrainingParams,
    BatchParams,
    DeepSpeedParams,
    DistributedParams,
    QuantisationParams,
    LoraParams,
    Preprocessing,
    DataSource,
    InputAdapter,
    VocabularyParams,
    ModelSource,
):
    """Parameters of every pipeline that trains a model."""

    needed: ClassVar[tuple[tuple[str, ...], ...]] = (*PipelineParameters.needed, ("train_file_path", "dataset_name"))
    loads_weights: ClassVar[bool] = True

    task: ClassVar[str]
    """Name of the task, which defines the rows (`steps/tasks`)."""

    confusion_chart: ClassVar[bool] = False
    """Whether a confusion matrix and ROC curves are shown in the UI."""

    def conflicts(self) -> Iterator[Problem]:
        """Refuse an optimizer or a quantised base that cannot be used with the adapter settings."""
        if self.optim == "galore_adamw" and self.apply_lora:
            yield Problem("PARAM-E0213", "optim", "galore_adamw with apply_lora=true", "only one of them",
                          "leave one of the two out", why="an adapter's matrices have a low rank already")  # fmt: skip
        if self.bits:
            yield from self._quantised_base()
        if self.apply_lora:
            yield from self._never_with_this_adapter()

    def _never_with_this_adapter(self) -> Iterator[Problem]:
        for name, reason in ADAPTER_KINDS[self.peft_type].never_with.items():
            if getattr(self, name):
                yield Problem("PARAM-E0279", name, f"true with peft_type={self.peft_type}", "false",
                              f"leave {name} out, or set peft_type=lora", why=reason)  # fmt: skip

    def _quantised_base(self) -> Iterator[Problem]:
        asked = f"load_in_{self.bits}bit"
        if not self.apply_lora:
            yield Problem("PARAM-E0278", asked, "true with apply_lora=false", "apply_lora=true",
                          f"set apply_lora=true, or leave {asked} out",
                          why="quantised weights cannot be trained themselves")  # fmt: skip
        if self.apply_deepspeed and self.deepspeed_stage == "3":
            yield Problem("PARAM-E0278", asked, "true with deepspeed_stage=3", "deepspeed_stage=2",
                          "set deepspeed_stage=2",
                          why="stage 3 would split quantised weights into parts that cannot be read")  # fmt: skip
        if self.apply_lora and not ADAPTER_KINDS[self.peft_type].fits("quantised"):
            yield Problem("PARAM-E0278", "peft_type", f"{self.peft_type} with {asked}=true",
                          put_into("quantised"), f"set peft_type=lora, or leave {asked} out",
                          why="PEFT supports no other kind on quantised weights")  # fmt: skip
        if self.use_dora and self.load_in_8bit:
            yield Problem("PARAM-E0278", "use_dora", "true with load_in_8bit=true", "false",
                          "set load_in_4bit=true instead",
                          why="DoRA needs the norms of the base's rows, which PEFT cannot read in 8 bits")  # fmt: skip
        if self.init_lora_weights == "orthogonal":
            yield Problem("PARAM-E0278", "init_lora_weights", f"orthogonal with {asked}=true", "true or gaussian",
                          "leave it out",
                          why="PEFT would give the adapter the base's data type, integers when quantised")  # fmt: skip

    @property
    def processes_per_node(self) -> int:
        """Training processes on each node: one per GPU, one without GPUs unless more are asked for."""
        return self.nproc_per_node_finetune or max(self.number_of_gpu_to_use_finetuning, 1)

    @property
    def devices(self) -> int:
        """Training processes on all nodes."""
        return self.processes_per_node * self.num_nodes_finetune

    @property
    def sequences_per_step(self) -> int:
        """Sequences per optimizer step over all devices."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * self.devices

    @property
    def rows_task(self) -> str:
        """The task that reads the rows; differs from `task` if a pipeline accepts several kinds of rows."""
        return self.task

    @property
    def learning_method(self) -> str:
        """The training method (`steps/kinds/methods`)."""
        return "supervised"

    @property
    def asked_kind(self) -> str:
        """The requested kind of model (`steps/kinds/models`); empty: decided by the model's architecture."""
        return ""


class AnswerOnly(Group):
    """For tasks with an input text and an answer to learn."""

    train_on_completions_only: bool = True
    """Compute the loss on the answers only; false includes the input texts."""

    max_target_length: int = Field(128, ge=1)
    """Longest answer in tokens for encoder-decoder models, for which max_seq_length limits only the input text."""

    num_beams: int = Field(1, ge=1)
    """Beams of beam search for encoder-decoder models; 1 is greedy decoding; more is slower."""
