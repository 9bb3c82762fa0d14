"""What each step is told: the groups it needs, and what the plan resolved for it.

A settings value holds only what changes the step's result, so that KFP's cache, which keys on it, is missed exactly
when the result would differ.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from steps.kinds.methods import METHODS
from steps.kinds.models import MODEL_KINDS
from steps.kinds.recipe import Recipe, recipe
from steps.params.adapter_tools import Action
from steps.params.choice import OneOf
from steps.params.data import DataSource, Preprocessing
from steps.params.evaluation import EvaluationParams
from steps.params.evaluation_config import EvaluationOptions
from steps.params.group import Group, default_in
from steps.params.lora import LoraParams
from steps.params.pipeline import AnswerOnly
from steps.params.preference import PreferenceMethod
from steps.params.quantisation import QuantisationParams
from steps.params.registration import RegistrationParams, TrackingParams
from steps.params.task_columns import PretrainingColumns
from steps.params.training import CheckpointParams, TrainingParams

SourceKind = Literal["huggingface", "pytorch", "mlflow"]


class Learned(Group):
    """What the model puts out and how it learns to, for every step whose work depends on it."""

    kind: Annotated[str, OneOf(MODEL_KINDS)] = "causal_lm"
    """What the model puts out, as decided by the plan."""

    method: Annotated[str, OneOf(METHODS)] = "supervised"
    """How it learns."""

    @property
    def recipe(self) -> Recipe:
        """The records of both."""
        return recipe(self.kind, self.method)


class Resolved(Group):
    """A URI together with what it meant when the plan looked."""

    uri: str
    """As the user gave it."""

    digest: str
    """Content digest (files), commit (Hub) or etags (object stores); a later step refuses other bytes."""


class ModelSourceFound(Group):
    """A model or an adapter, as the plan found it."""

    kind: SourceKind
    """Which kind of source it is."""

    source: Resolved
    """Folder, URI or Hub id."""


class AdapterFound(ModelSourceFound):
    """An adapter that the model comes with."""

    use: Literal["merge", "continue"] = "merge"
    """Fold it into the model, or keep it beside the weights for training to go on with."""


class ImportSettings(Group):
    """For import_model."""

    kind: SourceKind
    """Which of the three sources it is."""

    source: Resolved
    """Folder, URI or Hub id."""

    new_weights: bool = False
    """Leave the weights where they are: the run begins with random ones."""

    adapter: AdapterFound | None = None
    """The adapter that the model comes with."""

    reference: ModelSourceFound | None = None
    """The model that preferences are measured against, where it is not the one that is tuned."""

    new_tokens: tuple[str, ...] = ()
    """Tokens that the tokenizer lacks and gets."""

    padding_token: str = ""
    """Token that the tokenizer gets for padding; empty leaves it as it is."""

    @property
    def needs_torch(self) -> bool:
        """Whether weights are computed; otherwise files are only copied."""
        return self.adapter is not None and self.adapter.use == "merge"


class AdapterSettings(Group):
    """For import_adapter."""

    source: Resolved | None = None
    """Folder or URI; None where the tool works on the base alone."""


class AdapterToolSettings(Group):
    """For adapter_tool."""

    action: Action
    """Which tool."""

    replacements: dict[str, str] = Field(default_factory=dict)
    """Token → new name."""

    on_base: bool = False
    """Rename in the base's tokenizer instead of the adapter's."""

    compare_with_base: bool = False
    """Whether the adapter holds copies of base tensors, which are left out where they are equal."""

    trained_whole: list[str] = Field(default_factory=list)
    """What the training configuration lets expect besides low-rank factors."""


class DataSettings(Learned):
    """For prepare_data."""

    task: str
    """Which file of steps/tasks reads the rows."""

    columns: dict[str, Any] = Field(default_factory=dict)
    """Values of the task's own parameters: its columns, and how strictly they are read."""

    train: Resolved
    """Training rows."""

    validation: Resolved | None = None
    """Validation rows, when given."""

    test: Resolved | None = None
    """Test rows, when given."""

    source: DataSource | None = None
    """How the rows are found and read, Hub revisions pinned; None: train, validation and test are plain files."""

    processing_digest: str = ""
    """Content digest of the file with the processing function: another function means other rows."""

    seed: int = 42
    """Seed of the split."""

    preprocessing: Preprocessing = Field(default_factory=Preprocessing)
    """How rows become tokens."""

    chat_template_digest: str = ""
    """Content digest of the template file, when there is one: another text means other tokens."""

    max_length: int = Field(512, ge=1)
    """Longest row in tokens, as decided by the plan."""

    max_target_length: int = Field(default_in(AnswerOnly, "max_target_length"), ge=1)
    """Longest answer in tokens of a model with an encoder."""

    max_prompt_length: int = Field(default_in(PreferenceMethod, "max_prompt_length"), ge=1)
    """Longest prompt in tokens where answers are preferred."""

    unpairs: bool = False
    """Make two rated rows of each pair, the chosen answer good and the rejected one bad."""

    rows_per_step: int = Field(1, ge=1)
    """Sequences in one optimizer step: fewer packed rows than this would train nothing."""

    @property
    def data_source(self) -> DataSource:
        """How the rows are found and read."""
        if self.source is not None:
            return self.source
        given = {"train": self.train, "validation": self.validation, "test": self.test}
        return DataSource(**{f"{split}_file_path": one.uri for split, one in given.items() if one})


class FinetuneSettings(Group):
    """For finetune."""

    pipeline: str
    """Name of the pipeline, under which checkpoints and tracked runs are filed."""

    kind: Annotated[str, OneOf(MODEL_KINDS)] = "causal_lm"
    """What the model puts out, as decided by the plan."""

    training: TrainingParams = Field(default_factory=TrainingParams)
    """The training parameters; `auto` is already decided."""

    lora: LoraParams = Field(default_factory=LoraParams)
    """The adapter."""

    quantisation: QuantisationParams = Field(default_factory=QuantisationParams)
    """How the base below an adapter is stored."""

    packing: bool = False
    """Whether the token rows are packed sequences."""

    max_length: int = Field(512, ge=1)
    """Longest sequence in tokens, as decided by the plan."""

    pad_to_max_length: bool = False
    """Pad every batch to max_length."""

    mlm_probability: float = default_in(PretrainingColumns, "mlm_probability")
    """Share of the tokens that a masked model has to put back."""

    new_weights: bool = False
    """Begin with random weights instead of the model's."""

    pads_with_end: bool = False
    """Fill up batches with the end token, whatever the tokenizer names for padding."""

    max_new_tokens: int = Field(0, ge=0)
    """Longest answer that is written at an evaluation while training; 0 writes none."""

    num_beams: int = Field(default_in(AnswerOnly, "num_beams"), ge=1)
    """Answers that are followed up at a time when one is written."""

    preference: PreferenceMethod | None = None
    """How preferences are learned; None where the model learns from right answers."""

    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """DeepSpeed's configuration as the plan made it; "auto" stands for the parameters' value. Empty: no DeepSpeed."""

    checkpoints: CheckpointParams = Field(default_factory=CheckpointParams)
    """Where checkpoints lie and whether to resume; changes how the result is reached, not the result."""

    tracking: TrackingParams = Field(default_factory=TrackingParams)
    """Where metrics go."""

    @property
    def recipe(self) -> Recipe:
        """The records of the model's kind and of the method of learning."""
        return recipe(self.kind, self.preference.method if self.preference else "supervised")

    @property
    def preferred(self) -> PreferenceMethod:
        """How preferences are learned, for the trainers that learn them."""
        assert self.preference is not None
        return self.preference


class EvaluationSettings(Learned):
    """For evaluate."""

    task: str
    """Which file of steps/tasks reads the rows."""

    columns: dict[str, Any] = Field(default_factory=dict)
    """Values of the task's own parameters: the form of a prompt is among them."""

    evaluation: EvaluationParams = Field(default_factory=EvaluationParams)
    """What is measured, and the gate."""

    options: EvaluationOptions = Field(default_factory=EvaluationOptions)
    """What evaluation_config says, as the plan read it."""

    batch_size: int = Field(1, ge=1)
    """Rows generated at a time."""

    num_beams: int = Field(default_in(AnswerOnly, "num_beams"), ge=1)
    """Answers that a model with an encoder follows up at a time when it writes one."""

    beta: float = Field(default_in(PreferenceMethod, "beta"), gt=0)
    """Scale of the rewards where answers are preferred."""

    precision: Literal["32", "16"] = "32"
    """Bits of the arithmetic."""

    register_tuned_model: bool = True
    """Whether a passing model shall be registered."""


class RegistrationSettings(Learned):
    """For register_model."""

    pipeline: str
    """Name of the pipeline."""

    task: str
    """What the registered model answers."""

    registration: RegistrationParams = Field(default_factory=RegistrationParams)
    """Name (never empty here) and alias."""

    tracking: TrackingParams = Field(default_factory=TrackingParams)
    """The registry and the experiment of the run that the version belongs to."""

    max_new_tokens: int = default_in(EvaluationParams, "evaluation_max_new_tokens")
    """Default length of an answer of the registered model."""

    num_beams: int = Field(default_in(AnswerOnly, "num_beams"), ge=1)
    """Answers that a model with an encoder follows up at a time when it writes one."""

    prompt_form: tuple[str, str] = ("", "")
    """What the registered model puts before and after a text, as it was trained."""

    max_length: int | None = Field(None, ge=1)
    """Longest input in tokens of a model that does not go on from it, as in training."""

    pairs: bool = False
    """Whether the model reads pairs of texts."""

    columns: dict[str, Any] = Field(default_factory=dict)
    """Values of the task's own parameters, for models that are served as they were measured."""

    lineage: dict[str, Any] = Field(default_factory=dict)
    """Where model and data came from, for the model card."""
