"""The parameter model of each pipeline, composed of groups.

Bases stand in reverse reading order, because pydantic collects fields from the last base to the first.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from steps.errors import Problem
from steps.kinds.adapters import ADAPTER_KINDS, put_into
from steps.params.adapter_tools import AdapterWork
from steps.params.batch import BatchParams
from steps.params.chat_columns import ChatColumns, KtoColumns, PreferenceColumns
from steps.params.compute import ComputeParams, ImportCompute
from steps.params.data import DataSource, Preprocessing, TextColumns
from steps.params.deepspeed import DeepSpeedParams
from steps.params.evaluation import EvaluationParams
from steps.params.group import Group
from steps.params.input_adapter import InputAdapter
from steps.params.lora import LoraParams
from steps.params.model_source import ModelSource
from steps.params.planned import AdapterToolsPlan, Plan
from steps.params.preference import SORTED_WITHIN_BATCH, PreferenceMethod
from steps.params.quantisation import QuantisationParams
from steps.params.registration import RegistrationParams, TrackingParams
from steps.params.task_columns import (
    AnswerColumns,
    ClassificationColumns,
    PretrainingColumns,
    SummarizationColumns,
    TokenColumns,
    TranslationColumns,
)
from steps.params.task_metrics import (
    OF_LABEL_SETS,
    OF_ONE_LABEL,
    OF_PAIRS,
    OF_RATED,
    AnswerMetrics,
    LabelMetrics,
    LossMetrics,
    PreferenceMetrics,
    SummaryMetrics,
    TagMetrics,
    TextMetrics,
    TranslationMetrics,
)
from steps.params.training import CheckpointParams, TrainingParams
from steps.params.vocabulary import VocabularyParams

Task = Literal[
    "chat_completion", "text_generation", "pretraining", "summarization", "translation", "text_classification",
    "token_classification", "question_answering", "preference", "kto",
]  # fmt: skip


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

    task: ClassVar[Task]
    """What its data means (`steps/tasks`)."""

    def conflicts(self) -> Iterator[Problem]:
        """What trains whole matrices, or stores them, has something to say about adapters and their base."""
        if self.optim == "galore_adamw" and self.apply_lora:
            yield Problem("PARAM-E0213", "optim", "galore_adamw with apply_lora=true", "one way to save memory: an "
                          "adapter's matrices have no rank left to reduce", "leave one of the two out")  # fmt: skip
        if self.bits:
            yield from self._quantised_base()
        if self.apply_lora:
            yield from self._never_with_this_adapter()

    def _never_with_this_adapter(self) -> Iterator[Problem]:
        for name, reason in ADAPTER_KINDS[self.peft_type].never_with.items():
            if getattr(self, name):
                yield Problem("PARAM-E0279", name, f"true with peft_type={self.peft_type}", f"false: {reason}",
                              f"leave {name} out, or set peft_type=lora")  # fmt: skip

    def _quantised_base(self) -> Iterator[Problem]:
        asked = f"load_in_{self.bits}bit"
        if not self.apply_lora:
            yield Problem("PARAM-E0278", asked, "true with apply_lora=false", "an adapter: quantised weights cannot be "
                          "trained themselves", f"set apply_lora=true, or leave {asked} out")  # fmt: skip
        if self.apply_deepspeed and self.deepspeed_stage == "3":
            yield Problem("PARAM-E0278", asked, "true with deepspeed_stage=3", "stage 2: stage 3 would cut quantised "
                          "weights into pieces that cannot be read", "set deepspeed_stage=2")  # fmt: skip
        if self.apply_lora and not ADAPTER_KINDS[self.peft_type].fits("quantised"):
            yield Problem("PARAM-E0278", "peft_type", f"{self.peft_type} with {asked}=true",
                          f"{put_into('quantised')}: PEFT has no other layer for quantised weights",
                          f"set peft_type=lora, or leave {asked} out")  # fmt: skip
        if self.use_dora and self.load_in_8bit:
            yield Problem("PARAM-E0278", "use_dora", "true with load_in_8bit=true", "false: DoRA measures the rows of "
                          "the base, which PEFT cannot read in 8 bits", "set load_in_4bit=true instead")  # fmt: skip
        if self.init_lora_weights == "orthogonal":
            yield Problem("PARAM-E0278", "init_lora_weights", f"orthogonal with {asked}=true", "true or gaussian: PEFT "
                          "gives the adapter the base's type, whole numbers here", "leave it out")  # fmt: skip

    @property
    def rows_task(self) -> Task:
        """The task that reads the rows, where a pipeline takes rows of several kinds."""
        return self.task


class ChatCompletionParameters(ChatColumns, TextMetrics, SupervisedParameters):
    """Tune a chat model on conversations."""

    task: ClassVar[Task] = "chat_completion"


class TextGenerationParameters(TextColumns, TextMetrics, SupervisedParameters):
    """Tune a language model on texts, or on prompts with the text that should follow."""

    task: ClassVar[Task] = "text_generation"

    def conflicts(self) -> Iterator[Problem]:
        """Some things need to know where the prompt ends."""
        if self.ground_truth_key:
            return
        if self.train_on_completions_only:
            yield Problem("PARAM-E0206", "train_on_completions_only", "true without ground_truth_key",
                          "a column with the text to learn", "set ground_truth_key")  # fmt: skip
        if self.gate_metric not in ("loss", "perplexity"):
            yield Problem("PARAM-E0207", "gate_metric", f"{self.gate_metric} without ground_truth_key",
                          "loss or perplexity: there is no right answer to compare with",
                          "set ground_truth_key, or gate_metric=loss")  # fmt: skip


class Objective(Group):
    """What a language model learns from a text, and from where."""

    pretraining_objective: Literal["auto", "causal", "masked"] = "auto"
    """Learn each next token (causal), or to put back hidden ones (masked); auto takes what the model is made for."""

    new_weights: bool = False
    """Take only the model's configuration and tokenizer, and begin with random weights drawn from the seed."""


class PretrainingParameters(PretrainingColumns, Objective, LossMetrics, SupervisedParameters):
    """Let a language model go on learning from plain texts: a language, a subject, a style."""

    task: ClassVar[Task] = "pretraining"

    def conflicts(self) -> Iterator[Problem]:
        """An adapter changes weights that are there."""
        if self.new_weights and self.apply_lora:
            yield Problem("PARAM-E0211", "apply_lora", "true with new_weights=true", "every weight trained: an adapter "
                          "on random weights learns next to nothing", "leave one of the two out")  # fmt: skip
        if self.new_weights and self.bits:
            yield Problem("PARAM-E0278", f"load_in_{self.bits}bit", "true with new_weights=true", "weights that an "
                          "adapter leaves as they are: new ones are trained", "leave one of the two out")  # fmt: skip
        if self.new_weights and self.adapter_path:
            yield Problem("PARAM-E0266", "adapter_path", f"{self.adapter_path} with new_weights=true", "a model with "
                          "weights: an adapter changes those that it was trained on",
                          "leave one of the two out")  # fmt: skip


class AnswerOnly(Group):
    """For tasks whose text is given and whose answer alone is to be learned."""

    train_on_completions_only: bool = True
    """Learn only the answers; false learns to write the given texts as well."""

    max_target_length: int = Field(128, ge=1)
    """Longest answer in tokens for a model with an encoder, whose max_seq_length is that of the given texts."""

    num_beams: int = Field(1, ge=1)
    """Answers that a model with an encoder weighs against each other while writing; 1 takes the likeliest token."""


class SummarizationParameters(SummarizationColumns, AnswerOnly, SummaryMetrics, SupervisedParameters):
    """Tune a language model to sum up documents."""

    task: ClassVar[Task] = "summarization"


class TranslationParameters(TranslationColumns, AnswerOnly, TranslationMetrics, SupervisedParameters):
    """Tune a language model to translate texts from one language to another."""

    task: ClassVar[Task] = "translation"


class TextClassificationParameters(ClassificationColumns, LabelMetrics, SupervisedParameters):
    """Tune a model to give texts, or pairs of texts, their class."""

    task: ClassVar[Task] = "text_classification"

    def conflicts(self) -> Iterator[Problem]:
        """One label and several are measured by different numbers."""
        missing = OF_ONE_LABEL if self.multilabel else OF_LABEL_SETS
        for name in ("metric_for_best_model", "gate_metric"):
            if (metric := getattr(self, name)) in missing:
                yield Problem("PARAM-E0210", name, f"{metric} with multilabel={str(self.multilabel).lower()}",
                              f"a metric of rows with {'any number of labels' if self.multilabel else 'one label'}",
                              f"set {name} to f1_macro, or change multilabel")  # fmt: skip


class TokenClassificationParameters(TokenColumns, TagMetrics, SupervisedParameters):
    """Tune a model to give each word of a text its tag: names, places, parts of speech."""

    task: ClassVar[Task] = "token_classification"


class QuestionAnsweringParameters(AnswerColumns, AnswerMetrics, SupervisedParameters):
    """Tune a model to find the answer to a question in a text, or to say that there is none."""

    task: ClassVar[Task] = "question_answering"


class PreferenceParameters(PreferenceColumns, KtoColumns, PreferenceMethod, PreferenceMetrics, SupervisedParameters):
    """Tune a chat model on what people prefer: pairs of a better and a worse answer, or rated answers."""

    task: ClassVar[Task] = "preference"

    @property
    def rows_task(self) -> Task:
        """Rated answers are rows of another kind than pairs."""
        return "kto" if self.method == "kto" and self.kto_rows == "rated" else "preference"

    def conflicts(self) -> Iterator[Problem]:
        """Some losses compare the rows of a batch, and rated answers have no other beside them."""
        alone = self.per_device_train_batch_size < 2 and not self.total_train_batch_size
        for loss in ("kto", *SORTED_WITHIN_BATCH):
            if alone and loss in self.losses:
                yield Problem("PARAM-E0256", "per_device_train_batch_size", f"1 with the loss {loss}",
                              "at least 2: it compares the rows of a batch", "raise it")  # fmt: skip
            if self.auto_find_batch_size and loss in self.losses:
                yield Problem("PARAM-E0256", "auto_find_batch_size", f"true with the loss {loss}", "a batch size that "
                              "stays: it compares the rows of a batch", "leave it out")  # fmt: skip
        for name in ("rank_dropout", "module_dropout"):
            if self.peft_kwargs.get(name):
                yield Problem("PARAM-E0259", f"peft_kwargs.{name}", str(self.peft_kwargs[name]), "nothing: dropout is "
                              "switched off, for rewards are small differences of probabilities",
                              "leave it out")  # fmt: skip
        if self.method == "kto" and self.metric_for_best_model != "loss":
            yield Problem("PARAM-E0257", "metric_for_best_model", f"{self.metric_for_best_model} with method=kto",
                          "loss: a batch may hold good answers only", "leave it out")  # fmt: skip
        missing = OF_PAIRS if self.rows_task == "kto" else OF_RATED
        if self.gate_metric in missing:
            other = "preference_auc" if self.rows_task == "kto" else "preference_accuracy"
            yield Problem("PARAM-E0257", "gate_metric", f"{self.gate_metric} for "
                          f"{'rated answers' if self.rows_task == 'kto' else 'pairs'}",
                          "a metric of these rows", f"set gate_metric to {other}, or to reward_accuracy")  # fmt: skip
        if self.pad_to_max_length and not self.compares:
            yield Problem("PARAM-E0255", "pad_to_max_length", f"true with method={self.method}",
                          "false: TRL pads these batches to their longest row only", "leave it out")  # fmt: skip
        yield from self._other_columns()

    def _other_columns(self) -> Iterator[Problem]:
        rated = self.rows_task == "kto"
        fields = type(self).model_fields
        for name in ("chosen_key", "rejected_key") if rated else ("completion_key", "label_key"):
            if (value := getattr(self, name)) != fields[name].default:
                rows = "rated answers" if rated else "pairs"
                fix = "set kto_rows=pairs" if rated else "set method=kto with kto_rows=rated"
                yield Problem("PARAM-E0258", name, f"{value} where the rows are {rows}", "a column that is read",
                              f"leave it out, or {fix}")  # fmt: skip


class AdapterToolsParameters(PipelineParameters, ImportCompute, AdapterWork, ModelSource):
    """Work on a finished adapter: merge it, make it ready for vLLM, rename tokens, or check whether it fits a base."""

    planned: ClassVar[type[tuple]] = AdapterToolsPlan


# Pipeline name → its parameters; the plan and the catalogue read it.
PARAMETER_MODELS: dict[str, type[PipelineParameters]] = {
    "chat_completion": ChatCompletionParameters,
    "text_generation": TextGenerationParameters,
    "pretraining": PretrainingParameters,
    "summarization": SummarizationParameters,
    "translation": TranslationParameters,
    "text_classification": TextClassificationParameters,
    "token_classification": TokenClassificationParameters,
    "question_answering": QuestionAnsweringParameters,
    "preference": PreferenceParameters,
    "adapter_tools": AdapterToolsParameters,
}
