"""The settings values of the tasks that import models and adapters, and of the tools for adapters."""

from typing import Literal

from pydantic import Field

from steps.params.adapter_tools import Action
from steps.params.group import Group

SourceKind = Literal["huggingface", "pytorch", "mlflow"]
ENDPOINT: Literal["endpoint"] = "endpoint"  # kind of the source of a model that a server has


class Resolved(Group):
    """A URI and the digest of its content at planning time."""

    uri: str
    """As the user gave it."""

    digest: str
    """Content digest (files), commit (Hub) or etags (object stores); a later step refuses content that differs."""


class ModelSourceFound(Group):
    """The source of a model or an adapter, as resolved by the plan."""

    kind: SourceKind
    """Kind of source."""

    source: Resolved
    """Folder, URI or Hub id."""


class AdapterFound(ModelSourceFound):
    """An adapter given with the model."""

    use: Literal["merge", "continue", "separate"] = "merge"
    """Merge it into the model, keep it with the model and continue its training, or take only its tokenizer."""


class ImportSettings(Group):
    """For import_model."""

    kind: SourceKind | Literal["endpoint"]
    """Kind of source; endpoint: a server has the model, and nothing is imported."""

    source: Resolved
    """Folder, URI or Hub id, or address of a server."""

    registered: str = ""
    """The registered model that the source was found by, such as models:/dates/3; empty for a plain source."""

    sha256: dict[str, str] = Field(default_factory=dict)
    """Path inside the source → digest of its content, as registered; import_model refuses other content."""

    mlflow_server_uri: str = ""
    """MLflow server for a source there (models:/…, runs:/…); empty: MLFLOW_TRACKING_URI."""

    new_weights: bool = False
    """Do not copy the weights: training starts from random ones."""

    adapter: AdapterFound | None = None
    """The adapter given with the model."""

    reference: ModelSourceFound | None = None
    """The reference model of preference training, if it is not the base model."""

    new_tokens: tuple[str, ...] = ()
    """Tokens to add to the tokenizer."""

    padding_token: str = ""
    """Padding token to set in the tokenizer; empty leaves it unchanged."""

    @property
    def needs_torch(self) -> bool:
        """Whether weights are computed; otherwise files are copied."""
        return self.adapter is not None and self.adapter.use == "merge"


class AdapterSettings(Group):
    """For import_adapter."""

    source: Resolved | None = None
    """Folder or URI; None if the tool works on the base model alone."""


class AdapterToolSettings(Group):
    """For adapter_tool."""

    action: Action
    """The tool."""

    replacements: dict[str, str] = Field(default_factory=dict)
    """Token → new name."""

    on_base: bool = False
    """Rename tokens in the base model's tokenizer instead of the adapter's."""

    compare_with_base: bool = False
    """Whether the adapter contains copies of base tensors; those equal to the base are left out."""

    trained_whole: list[str] = Field(default_factory=list)
    """Modules that, by the training configuration, were trained fully, not as low-rank factors."""
