"""Low-rank adapters."""

from pydantic import Field

from steps.params.group import Group


class LoraParams(Group):
    """How the adapter is shaped."""

    apply_lora: bool = False
    """Train a small adapter instead of every weight; merge_adapter folds it into the base afterwards."""

    lora_r: int = Field(8, ge=1)
    """Rank of the adapter matrices; memory and capacity grow with it."""

    lora_alpha: int = Field(128, ge=1)
    """Scale of the adapter: its update is multiplied by lora_alpha / lora_r."""

    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the adapter's inputs that is dropped during training."""

    lora_target_modules: str = Field("all-linear", min_length=1)
    """Layers that get an adapter: all-linear, or module names separated by commas (q_proj,v_proj)."""
