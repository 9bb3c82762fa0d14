"""Source of the base model: exactly one of three kinds."""

from collections.abc import Iterator

from pydantic import Field

from steps.errors import Problem
from steps.params.group import Group

# Kind of source → its parameter.
SOURCE_PARAMETER = {
    "huggingface": "huggingface_id",
    "pytorch": "pytorch_model_path",
    "mlflow": "mlflow_model_path",
}


class ModelSource(Group):
    """The model to tune."""

    huggingface_id: str = ""
    """Model id on the Hugging Face Hub, such as meta-llama/Llama-3.2-1B; the revision is pinned before the run."""

    huggingface_revision: str = "main"
    """Branch, tag or commit of huggingface_id; the plan resolves it to a commit."""

    huggingface_token_secret: str = Field("huggingface-token", min_length=1)
    """Kubernetes secret with the key `token` for gated models; ignored if the cluster has no such secret."""

    pytorch_model_path: str = ""
    """Folder with config.json, safetensors weights and a tokenizer: a path or any fsspec URI (s3, gs, …)."""

    mlflow_model_path: str = ""
    """MLflow model: models:/name@alias, models:/name/version, runs:/id/path, or its folder (path or fsspec URI)."""

    trust_remote_code: bool = False
    """Run Python code from the model folder; true is refused, because the code would run with the pod's rights."""

    @property
    def needs_model(self) -> bool:
        """Whether a source has to be given."""
        return True

    def conflicts(self) -> Iterator[Problem]:
        """Require exactly one source, and no code from the model folder."""
        given = [name for name in SOURCE_PARAMETER.values() if getattr(self, name)]
        if len(given) != 1 and self.needs_model:
            found = " and ".join(given) if given else "none of them"
            fix = "keep one of them" if given else "name the model to tune with one of them"
            yield Problem(
                "PARAM-E0201", ", ".join(given or SOURCE_PARAMETER.values()), found, "exactly one model source", fix
            )
        if self.trust_remote_code:
            yield Problem("PARAM-E0202", "trust_remote_code", "true", "false",
                          "use a model whose architecture is built into transformers",
                          why="code from model folders is never run")  # fmt: skip
