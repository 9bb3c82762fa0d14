"""Adapters: LoRA and its relatives."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from steps.errors import Problem, shown
from steps.params.adapter_kinds import KINDS, kwargs_problems, whole_numbers
from steps.params.group import Group, Renamed

# Layers that no adapter is put on: TRL multiplies by the head's weights without looking at an adapter, and what is
# tied to them could not be merged.
WITHOUT_ADAPTER = {"embed_in", "embed_out", "embed_tokens", "lm_head", "shared", "word_embeddings", "wpe", "wte"}

ALL = "all-linear"


class LoraParams(Group):
    """How the adapter is shaped."""

    apply_lora: Annotated[bool, Renamed(names=("use_peft",))] = False
    """Train a small adapter of the kind peft_type instead of every weight; merge_adapter folds it into the base."""

    peft_type: Literal["lora", "ia3", "loha", "lokr", "prompt_tuning"] = "lora"
    """Kind: a product of two matrices (lora), two such (loha), a Kronecker one (lokr), factors (ia3), prompt_tuning."""

    lora_r: int = Field(8, ge=1)
    """Rank of the adapter matrices; memory and capacity grow with it."""

    lora_alpha: int = Field(128, ge=1)
    """Scale of the adapter: its update is multiplied by lora_alpha / lora_r."""

    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the adapter's inputs that is dropped during training."""

    lora_target_modules: str = Field("all-linear", min_length=1)
    """Layers that get an adapter: all-linear, or module names separated by commas (q_proj,v_proj)."""

    use_dora: bool = False
    """Learn lengths and directions of the weights' rows apart (DoRA): closer to full training, a third slower."""

    use_rslora: bool = False
    """Multiply the update by lora_alpha / √lora_r (rank-stabilised), so that a high rank does not learn too slowly."""

    init_lora_weights: Literal["true", "gaussian", "orthogonal"] = "true"
    """First weights of a LoRA: true draws uniform ones as its authors did; all of them leave the model as it is."""

    num_virtual_tokens: int = Field(20, ge=1)
    """Vectors that prompt_tuning learns to put before every text; they take up as many of the model's positions."""

    peft_kwargs: dict[str, Any] = Field(default_factory=dict)
    """More of PEFT's settings for this kind, as JSON, such as {"rank_pattern": {"q_proj": 16}}."""

    @field_validator("lora_target_modules")
    @classmethod
    def _names(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",") if name.strip()]
        if [name.lower() for name in names] == [ALL]:
            return ALL
        if not names or ALL in (name.lower() for name in names):
            raise ValueError(f"{ALL}, or names of modules with commas between")
        return value

    @field_validator("peft_kwargs", mode="before")
    @classmethod
    def _whole_numbers(cls, value: Any) -> Any:
        return whole_numbers(value)

    @property
    def targets(self) -> list[str]:
        """The named layers; none where every linear layer gets an adapter."""
        if self.lora_target_modules == ALL:
            return []
        return [name.strip() for name in self.lora_target_modules.split(",") if name.strip()]

    def conflicts(self) -> Iterator[Problem]:
        """Every kind has settings of its own, and none is set where nothing would read it."""
        if not self.apply_lora:
            yield from self._without_adapter()
            return
        yield from self._ignored()
        yield from kwargs_problems(self.peft_type, self.peft_kwargs)
        yield from self._layer_problems()
        if self.init_lora_weights == "orthogonal" and self.lora_r % 2:
            yield Problem("PARAM-E0264", "init_lora_weights", f"orthogonal with lora_r={self.lora_r}",
                          "an even rank: half of it serves each matrix", f"set lora_r={self.lora_r + 1}")  # fmt: skip

    def _without_adapter(self) -> Iterator[Problem]:
        """Asking for a kind of adapter and not for an adapter is a mistake; ranks have defaults that others copy."""
        fields = LoraParams.model_fields
        for name in ("peft_type", "use_dora", "use_rslora", "init_lora_weights", "num_virtual_tokens", "peft_kwargs"):
            value = getattr(self, name)
            if value != fields[name].get_default(call_default_factory=True):
                yield Problem("PARAM-E0261", name, f"{shown(value)} with apply_lora=false", "an adapter to shape",
                              "set apply_lora=true, or leave it out")  # fmt: skip

    def _ignored(self) -> Iterator[Problem]:
        takes = KINDS[self.peft_type].takes
        for name in sorted(frozenset().union(*(kind.takes for kind in KINDS.values())) - takes):
            value, default = getattr(self, name), LoraParams.model_fields[name].default
            if value == default:
                continue
            other = next(other for other, kind in KINDS.items() if name in kind.takes)
            instead = f"leave it out, or set peft_type={other}"
            if name == "lora_dropout" and "rank_dropout" in KINDS[self.peft_type].kwargs:
                instead = 'leave it out, or set peft_kwargs={"rank_dropout": …} for rows of the update'
            yield Problem("PARAM-E0261", name, f"{shown(value)} with peft_type={self.peft_type}",
                          f"{shown(default)}: {self.peft_type} has no such setting", instead)  # fmt: skip

    def _layer_problems(self) -> Iterator[Problem]:
        for name in self.targets:
            if name.rsplit(".", 1)[-1] in WITHOUT_ADAPTER:
                yield Problem("PARAM-E0265", "lora_target_modules", name, "layers between the embeddings and the "
                              "head, such as q_proj", f"leave {name} out")  # fmt: skip
        kwargs = self.peft_kwargs
        if "layers_to_transform" in kwargs and not self.targets:
            yield Problem("PARAM-E0263", "peft_kwargs.layers_to_transform", "a choice of layers with "
                          "lora_target_modules=all-linear", "names of modules beside it: PEFT takes no other",
                          "set lora_target_modules to names such as q_proj,v_proj")  # fmt: skip
        if "layers_pattern" in kwargs and "layers_to_transform" not in kwargs:
            yield Problem("PARAM-E0263", "peft_kwargs.layers_pattern", shown(kwargs["layers_pattern"]),
                          "layers_to_transform beside it", "say which layers, or leave it out")  # fmt: skip
        scaled = kwargs.get("feedforward_modules") or []
        for name in scaled if self.targets and isinstance(scaled, list) else []:
            if name not in self.targets:
                yield Problem("PARAM-E0263", "peft_kwargs.feedforward_modules", shown(name),
                              "names that lora_target_modules has as well", f"add {name} to it")  # fmt: skip
