"""The settings value of each step: the parameter groups that it needs, and what the plan resolved for it.

A settings value holds only what changes the step's result. KFP's cache uses it as the key, so a step runs again exactly
when its result would differ.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from steps.kinds.methods import METHODS
from steps.kinds.models import MODEL_KINDS
from steps.kinds.recipe import Recipe, recipe
from steps.params.choice import OneOf
from steps.params.data import DataSource, Preprocessing
from steps.params.distributed import Processes
from steps.params.evaluation import EvaluationParams
from steps.params.evaluation_config import EvaluationOptions
from steps.params.generation import DecodingParams, EngineParams
from steps.params.group import Group, default_in
from steps.params.import_settings import ENDPOINT as ENDPOINT  # settings of the tasks that import
from steps.params.import_settings import AdapterFound as AdapterFound
from steps.params.import_settings import AdapterSettings as AdapterSettings
from steps.params.import_settings import AdapterToolSettings as AdapterToolSettings
from steps.params.import_settings import ImportSettings as ImportSettings
from steps.params.import_settings import ModelSourceFound as ModelSourceFound
from steps.params.import_settings import Resolved as Resolved
from steps.params.import_settings import SourceKind as SourceKind
from steps.params.lora import LoraParams
from steps.params.nodes import NodeSettings
from steps.params.pipeline import AnswerOnly
from steps.params.preference import PreferenceMethod
from steps.params.quantisation import QuantisationParams
from steps.params.registration import RegistrationParams, TrackingParams
from steps.params.reward_training import Completions, RewardTraining
from steps.params.rewards import RewardParams
from steps.params.sweep import NAME, Pruner, SweepParams
from steps.params.task_columns import PretrainingColumns
from steps.params.training import CheckpointParams, TrainingParams
from steps.params.verl_settings import VerlSettings
from steps.params.worded import OfPipeline, Worded


class Learned(Group):
    """The kind of model and the training method, for every step that depends on them."""

    kind: Annotated[str, OneOf(MODEL_KINDS)] = "causal_lm"
    """Kind of model (`steps/kinds/models`), as decided by the plan."""

    method: Annotated[str, OneOf(METHODS)] = "supervised"
    """Training method (`steps/kinds/methods`)."""

    @property
    def recipe(self) -> Recipe:
        """The records of the kind and the method."""
        return recipe(self.kind, self.method)


class RewardSettings(RewardParams):
    """What judges completions, with what the files of the user's rewards hold."""

    digests: dict[str, str] = Field(default_factory=dict)
    """Content digest of each reward that is a file or a model, by its name in reward_funcs."""


class DataSettings(Worded, Learned):
    """For prepare_data."""

    task: str
    """The module of steps/tasks that reads the rows."""

    columns: dict[str, Any] = Field(default_factory=dict)
    """Values of the task's own parameters: its columns, and how strictly they are checked."""

    train: Resolved | None = None
    """Training rows; None for a task without a training."""

    validation: Resolved | None = None
    """Validation rows, when given."""

    test: Resolved | None = None
    """Test rows, when given."""

    asked: tuple[str, ...] = ()
    """Prompts that are a parameter themselves, in place of test rows."""

    source: DataSource | None = None
    """The data parameters with Hub revisions pinned; None: train, validation and test are plain files."""

    processing_digest: str = ""
    """Content digest of the file with the processing function, which determines the rows."""

    seed: int = 42
    """Seed of the split."""

    preprocessing: Preprocessing = Field(default_factory=Preprocessing)
    """Tokenisation parameters."""

    chat_template_digest: str = ""
    """Content digest of the chat template file, which determines the tokens; empty without a file."""

    max_length: int = Field(512, ge=1)
    """Longest row in tokens, as decided by the plan."""

    max_target_length: int = Field(default_in(AnswerOnly, "max_target_length"), ge=1)
    """Longest answer in tokens for an encoder-decoder model."""

    max_prompt_length: int = Field(default_in(PreferenceMethod, "max_prompt_length"), ge=1)
    """Longest prompt in tokens for preference training and training with rewards."""

    max_completion_length: int = Field(default_in(Completions, "max_completion_length"), ge=1)
    """Longest completion in tokens, for which a prompt leaves room, for training with rewards."""

    reward_columns: tuple[str, ...] = ()
    """Columns that the rewards need, by the names that they take them by."""

    unpairs: bool = False
    """Turn each pair into two rated rows: the chosen answer good, the rejected one bad."""

    rows_per_step: int = Field(1, ge=1)
    """Sequences per optimizer step (with rewards: prompts per generation); fewer would give no optimizer step."""

    @property
    def data_source(self) -> DataSource:
        """The data parameters."""
        if self.source is not None:
            return self.source
        given = {"train": self.train, "validation": self.validation, "test": self.test}
        return DataSource(**{f"{split}_file_path": one.uri for split, one in given.items() if one})


class Pruning(Group):
    """Ending a trial of a sweep during its training if the other trials are better; changes no result."""

    sweep: str = Field(pattern=f"^{NAME.pattern}$")
    """Name of the folder of the curves of the sweep's trials."""

    trial: int = Field(ge=0)
    """Number of this trial in the sweep."""

    pruner: Pruner = "median"
    """End a trial that is worse than the median of the finished ones, or that is not in the better half at a rung."""

    startup_trials: int = Field(default_in(SweepParams, "pruner_startup_trials"), ge=0)
    """Trials to compare with that are needed before one is ended: finished ones (median), or ones that got as far."""

    warmup_steps: int = Field(default_in(SweepParams, "pruner_warmup_steps"), ge=0)
    """Optimizer steps before which no trial is ended."""


class FinetuneSettings(OfPipeline):
    """For finetune."""

    kind: Annotated[str, OneOf(MODEL_KINDS)] = "causal_lm"
    """Kind of model (`steps/kinds/models`), as decided by the plan."""

    gpus: int = Field(0, ge=0)
    """GPUs that the pod requests; a pod that sees fewer fails. Ignored by local runs."""

    processes: Processes = Field(default_factory=Processes)
    """The processes that train together."""

    nodes: NodeSettings | None = None
    """What each node requests, if there are several; changes no result."""

    training: TrainingParams = Field(default_factory=TrainingParams)
    """The training parameters, with `auto` already resolved."""

    lora: LoraParams = Field(default_factory=LoraParams)
    """The adapter parameters."""

    quantisation: QuantisationParams = Field(default_factory=QuantisationParams)
    """Quantisation of the frozen base model."""

    packing: bool = False
    """Whether the token rows are packed sequences."""

    max_length: int = Field(512, ge=1)
    """Longest sequence in tokens, as decided by the plan."""

    pad_to_max_length: bool = False
    """Pad every batch to max_length."""

    mlm_probability: float = default_in(PretrainingColumns, "mlm_probability")
    """Share of the tokens that are masked for a masked language model to predict."""

    new_weights: bool = False
    """Start from random weights instead of the model's."""

    pads_with_end: bool = False
    """Pad batches with the end-of-sequence token, regardless of the tokenizer's padding token."""

    max_new_tokens: int = Field(0, ge=0)
    """Longest answer in tokens generated by evaluations during training; 0 generates none."""

    num_beams: int = Field(default_in(AnswerOnly, "num_beams"), ge=1)
    """Beams of beam search."""

    preference: PreferenceMethod | None = None
    """Parameters of preference training; None for every other training."""

    rewarded: RewardTraining | None = None
    """Parameters of training with rewards; None for every other training."""

    rewards: RewardSettings | None = None
    """What judges the completions; only for training with rewards."""

    verl: VerlSettings | None = None
    """Parameters of verl, where it trains; None for every other training."""

    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """DeepSpeed configuration made by the plan; "auto" takes the value of the parameters. Empty: no DeepSpeed."""

    checkpoints: CheckpointParams = Field(default_factory=CheckpointParams)
    """Checkpoint folder and resuming; they change how the result is computed, not the result."""

    tracking: TrackingParams = Field(default_factory=TrackingParams)
    """Where metrics are logged."""

    pruning: Pruning | None = None
    """Pruning of a trial; None for every other training."""

    @property
    def recipe(self) -> Recipe:
        """The records of the kind of model and the training method."""
        asked = self.preference or self.rewarded
        return recipe(self.kind, asked.method if asked else "supervised")

    @property
    def preferred(self) -> PreferenceMethod:
        """The parameters of preference training; only for its trainers, which always have them."""
        assert self.preference is not None
        return self.preference

    @property
    def asked_rewards(self) -> tuple[RewardTraining, RewardSettings]:
        """The parameters of training with rewards; only for its trainers, which always have them."""
        assert self.rewarded is not None
        assert self.rewards is not None
        return self.rewarded, self.rewards


class EvaluationSettings(Worded, Learned):
    """For evaluate."""

    task: str
    """The module of steps/tasks that reads the rows."""

    split: Literal["test", "validation"] = "test"
    """The rows that are evaluated; validation for the trials of a sweep."""

    columns: dict[str, Any] = Field(default_factory=dict)
    """Values of the task's own parameters, including the prompt format."""

    evaluation: EvaluationParams = Field(default_factory=EvaluationParams)
    """The evaluation parameters and the gate."""

    options: EvaluationOptions = Field(default_factory=EvaluationOptions)
    """The options of evaluation_config, as read by the plan."""

    gpus: int = Field(0, ge=0)
    """GPUs that the pod requests; a pod that sees fewer fails. Ignored by local runs."""

    batch_size: int = Field(1, ge=1)
    """Rows per generated batch."""

    num_beams: int = Field(default_in(AnswerOnly, "num_beams"), ge=1)
    """Answers that a model with an encoder follows up at a time when it writes one."""

    beta: float = Field(default_in(PreferenceMethod, "beta"), gt=0)
    """Scale of the rewards in preference training."""

    completions: Completions | None = None
    """How completions are written for rewards to judge; None without rewards."""

    rewards: RewardSettings | None = None
    """What judges the completions; None without rewards."""

    precision: Literal["32", "16"] = "32"
    """Bits of floating-point arithmetic: 16 or 32."""


class GenerateSettings(Learned):
    """For generate."""

    task: str = "prompts"
    """The module of steps/tasks that reads the rows."""

    columns: dict[str, Any] = Field(default_factory=dict)
    """Values of the task's own parameters."""

    decoding: DecodingParams = Field(default_factory=DecodingParams)
    """How answers are written."""

    engine: EngineParams = Field(default_factory=EngineParams)
    """What computes them, with `auto` already resolved."""

    quantisation: QuantisationParams = Field(default_factory=QuantisationParams)
    """Storage of the weights."""

    gpus: int = Field(0, ge=0)
    """GPUs that the pod requests; a pod that sees fewer fails. Ignored by local runs."""

    checkpoint_dir: str = ""
    """Object store or folder on a volume that answers are kept in until all are there; changes no answer."""

    upload_dir: str = ""
    """Folder or URI that the finished answers are copied to as well; empty: none."""


class ScoreSettings(Group):
    """For score."""

    options: EvaluationOptions = Field(default_factory=EvaluationOptions)
    """The options of evaluation_config, as read by the plan."""


class TrialSettings(Group):
    """For one trial of a sweep: a training, and how its result is measured."""

    number: int = Field(ge=0)
    """Place of the trial in the sweep."""

    sweep: str = ""
    """Name of the sweep, if it was given one; then its trials are not taken from the cache of another one."""

    model_place: int = Field(0, ge=0)
    """Place of its model among the models of the sweep."""

    data_place: int = Field(0, ge=0)
    """Place of its data among the prepared data of the sweep."""

    rows_per_step: int = Field(1, ge=1)
    """Sequences per optimizer step; a trial with fewer rows fails."""

    training: FinetuneSettings
    """The training."""

    measuring: EvaluationSettings
    """The measurement on the validation rows; its gate_metric selects the best trial."""

    @property
    def names_told(self) -> dict[str, str]:
        """What messages say in place of the usual names."""
        return self.training.names_told


class RegistrationSettings(Learned):
    """For register_model."""

    pipeline: str
    """Name of the pipeline."""

    task: str
    """The task of the registered model."""

    registration: RegistrationParams = Field(default_factory=RegistrationParams)
    """Name (never empty here) and alias."""

    tracking: TrackingParams = Field(default_factory=TrackingParams)
    """The MLflow registry, and the experiment of the run that the version belongs to."""

    max_new_tokens: int = default_in(EvaluationParams, "evaluation_max_new_tokens")
    """Default of max_new_tokens of the registered model."""

    num_beams: int = Field(default_in(AnswerOnly, "num_beams"), ge=1)
    """Answers that a model with an encoder follows up at a time when it writes one."""

    prompt_form: tuple[str, str] = ("", "")
    """Text that the registered model adds before and after its input, as in training."""

    system_prompt: str = ""
    """Instruction that the registered model puts before a conversation without one, as in training; empty: none."""

    max_length: int | None = Field(None, ge=1)
    """Longest input in tokens, as in training; None for models that continue the input."""

    pairs: bool = False
    """Whether the model's input is a pair of texts."""

    columns: dict[str, Any] = Field(default_factory=dict)
    """Values of the task's own parameters, for models that are served with the columns they were evaluated with."""

    lineage: dict[str, Any] = Field(default_factory=dict)
    """Sources of model and data, and the parameters that differ from their default, for the model card."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The effective parameters of the pipeline by name."""
        from steps.params.pipelines import PARAMETER_MODELS
        from steps.params.reading import defaults

        known = PARAMETER_MODELS.get(self.pipeline)
        usual = {name: value for name, value in defaults(known).items() if name != "overrides"} if known else {}
        return usual | self.lineage.get("parameters", {})
