"""What the parameter models of pipelines are made of (`pipelines/` has one file for each).

Bases stand in reverse reading order, because pydantic collects fields from the last base to the first.
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
from steps.params.evaluation import EvaluationParams
from steps.params.group import Group
from steps.params.input_adapter import InputAdapter
from steps.params.lora import LoraParams
from steps.params.model_source import ModelSource
from steps.params.planned import Plan
from steps.params.quantisation import QuantisationParams
from steps.params.registration import RegistrationParams, TrackingParams
from steps.params.training import CheckpointParams, TrainingParams
from steps.params.vocabulary import VocabularyParams


class PipelineParameters(Group):
    """What every pipeline has."""

    planned: ClassVar[type[tuple]] = Plan
    """What its plan hands to the later tasks."""

    overrides: dict[str, Any] = Field(default_factory=dict)
    """Any parameters by name, as JSON; they win over the fields above (for sweeps and configuration files)."""


class SupervisedParameters(
    PipelineParameters,
    RegistrationParams,
    TrackingParams,
    EvaluationParams,
    ComputeParams,
    CheckpointParams,
    TrainingParams,
    BatchParams,
    DeepSpeedParams,
    QuantisationParams,
    LoraParams,
    Preprocessing,
    DataSource,
    InputAdapter,
    VocabularyParams,
    ModelSource,
):
    """What every supervised pipeline has: it learns from rows that hold the right answer."""

    task: ClassVar[str]
    """What its data means (`steps/tasks`)."""

    confusion_chart: ClassVar[bool] = False
    """Whether a confusion matrix and ROC curves are shown in the UI."""

    def conflicts(self) -> Iterator[Problem]:
        """What trains whole matrices, or stores them, has something to say about adapters and their base."""
        if self.optim == "galore_adamw" and self.apply_lora:
            yield Problem("PARAM-E0213", "optim", "galore_adamw with apply_lora=true", "one way to save memory",
                          "leave one of the two out",
                          why="an adapter's matrices have no rank left to reduce")  # fmt: skip
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
            yield Problem("PARAM-E0278", asked, "true with apply_lora=false", "an adapter",
                          f"set apply_lora=true, or leave {asked} out",
                          why="quantised weights cannot be trained themselves")  # fmt: skip
        if self.apply_deepspeed and self.deepspeed_stage == "3":
            yield Problem("PARAM-E0278", asked, "true with deepspeed_stage=3", "stage 2", "set deepspeed_stage=2",
                          why="stage 3 would cut quantised weights into pieces that cannot be read")  # fmt: skip
        if self.apply_lora and not ADAPTER_KINDS[self.peft_type].fits("quantised"):
            yield Problem("PARAM-E0278", "peft_type", f"{self.peft_type} with {asked}=true",
                          put_into("quantised"), f"set peft_type=lora, or leave {asked} out",
                          why="PEFT has no other layer for quantised weights")  # fmt: skip
        if self.use_dora and self.load_in_8bit:
            yield Problem("PARAM-E0278", "use_dora", "true with load_in_8bit=true", "false",
                          "set load_in_4bit=true instead",
                          why="DoRA measures the rows of the base, which PEFT cannot read in 8 bits")  # fmt: skip
        if self.init_lora_weights == "orthogonal":
            yield Problem("PARAM-E0278", "init_lora_weights", f"orthogonal with {asked}=true", "true or gaussian",
                          "leave it out", why="PEFT gives the adapter the base's type, whole numbers here")  # fmt: skip

    @property
    def devices(self) -> int:
        """Processes that train: one for each GPU, one without any."""
        return max(self.number_of_gpu_to_use_finetuning, 1) * self.num_nodes_finetune

    @property
    def sequences_per_step(self) -> int:
        """Sequences behind one optimizer step over all devices."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * self.devices

    @property
    def rows_task(self) -> str:
        """The task that reads the rows, where a pipeline takes rows of several kinds."""
        return self.task

    @property
    def learning_method(self) -> str:
        """The method of learning (`steps/kinds/methods`)."""
        return "supervised"

    @property
    def asked_kind(self) -> str:
        """The kind of model (`steps/kinds/models`) that is asked for; empty takes what the model is made for."""
        return ""


class AnswerOnly(Group):
    """For tasks whose text is given and whose answer alone is to be learned."""

    train_on_completions_only: bool = True
    """Learn only the answers; false learns to write the given texts as well."""

    max_target_length: int = Field(128, ge=1)
    """Longest answer in tokens for a model with an encoder, whose max_seq_length is that of the given texts."""

    num_beams: int = Field(1, ge=1)
    """Answers that a model with an encoder weighs against each other while writing; 1 takes the likeliest token."""
