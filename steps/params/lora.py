"""Adapters: LoRA and the other kinds."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from steps.errors import Problem, shown
from steps.kinds.adapters import ADAPTER_KINDS
from steps.params.adapter_kinds import (
    KINDS_OF_PEFT,
    NOT_OFFERED,
    ReadBy,
    kwargs_problems,
    marks,
    peft_names,
    whole_numbers,
)
from steps.params.choice import OneOf, switch
from steps.params.group import Group, Renamed, default_in
from steps.params.patterns import fault_of
from steps.params.several import COMMAS

# Layers without adapters: TRL multiplies by the head's weights and ignores an adapter on it, and weights tied to the
# head could not be merged.
WITHOUT_ADAPTER = {"embed_in", "embed_out", "embed_tokens", "lm_head", "shared", "word_embeddings", "wpe", "wte"}

HEADS = {"embed_out", "lm_head"}

ALL = "all-linear"
EXPRESSION = re.compile(r"[\\*+?()\[\]{}^$|]")  # characters that no name of a layer has

# To add a parameter: a field with the kinds that use it. If PEFT has another name, it goes into `renamed` of their
# records (`steps/kinds/adapters/`); the rest follows from these.
LORA = ("lora",)
RANKED = ("lora", "loha", "lokr")
IN_LAYERS = tuple(name for name, kind in ADAPTER_KINDS.items() if kind.layers)


class LoraParams(Group):
    """Kind and shape of the adapter."""

    apply_lora: Annotated[bool, Renamed(names=("use_peft",))] = False
    """Train a small adapter of kind peft_type instead of all weights; merge_adapter merges it into the base."""

    peft_type: Annotated[str, OneOf(ADAPTER_KINDS), Renamed(values=KINDS_OF_PEFT, instead=NOT_OFFERED)] = "lora"
    """Kind: low-rank matrices (lora), Hadamard (loha) or Kronecker product (lokr), factors (ia3), or prompt_tuning."""

    lora_r: Annotated[int, ReadBy(RANKED, without_adapter=True)] = Field(8, ge=1)
    """Rank of the adapter matrices; memory and capacity grow with it."""

    lora_alpha: Annotated[int, ReadBy(RANKED, without_adapter=True)] = Field(128, ge=1)
    """Scale of the adapter: its update is multiplied by lora_alpha / lora_r."""

    lora_dropout: Annotated[float, ReadBy(LORA, without_adapter=True)] = Field(0.0, ge=0, lt=1)
    """Dropout probability of the adapter's inputs during training."""

    lora_target_modules: Annotated[str, COMMAS, ReadBy(IN_LAYERS, without_adapter=True)] = Field(ALL, min_length=1)
    """Layers with an adapter: all-linear, names separated by commas (q_proj,v_proj), or a regular expression."""

    use_dora: Annotated[bool, ReadBy(LORA)] = False
    """Train magnitude and direction of weight rows separately (DoRA): closer to full training, a third slower."""

    use_rslora: Annotated[bool, ReadBy(LORA)] = False
    """Scale the update by lora_alpha / √lora_r (rank-stabilised LoRA), so that high ranks do not train too slowly."""

    init_lora_weights: Annotated[
        Literal["true", "gaussian", "orthogonal"], BeforeValidator(switch), ReadBy(LORA, at_start=True)
    ] = "true"
    """Initial weights of LoRA: true draws them uniformly as its authors did; none changes the model's output."""

    num_virtual_tokens: Annotated[int, ReadBy(("prompt_tuning",))] = Field(20, ge=1)
    """Trained vectors that prompt_tuning puts before every text; each takes up one of the model's positions."""

    peft_kwargs: dict[str, Any] = Field(default_factory=dict)
    """More PEFT settings for this kind, as JSON, such as {"rank_pattern": {"q_proj": 16}}."""

    @field_validator("lora_target_modules", check_fields=False)  # verl has another name for it
    @classmethod
    def _names(cls, value: str) -> str:
        if EXPRESSION.search(value):
            if fault := fault_of(value):
                raise ValueError(f"a regular expression, or module names ({fault})")
            return value
        names = [name.strip() for name in value.split(",") if name.strip()]
        if [name.lower() for name in names] == [ALL]:
            return ALL
        if not names or ALL in (name.lower() for name in names):
            raise ValueError(f"{ALL}, or module names separated by commas")
        return value

    @field_validator("peft_kwargs", mode="before", check_fields=False)
    @classmethod
    def _whole_numbers(cls, value: Any) -> Any:
        return whole_numbers(value)

    @property
    def targets(self) -> list[str]:
        """The named layers; empty if every linear layer gets an adapter, or those of a regular expression."""
        if self.lora_target_modules == ALL or self.target_expression:
            return []
        return [name.strip() for name in self.lora_target_modules.split(",") if name.strip()]

    @property
    def target_expression(self) -> str:
        """The regular expression that the whole path of a layer must match; empty where there is none."""
        return self.lora_target_modules if EXPRESSION.search(self.lora_target_modules) else ""

    @property
    def in_layers(self) -> bool:
        """Whether an adapter of this kind is put into layers."""
        return bool(ADAPTER_KINDS[self.peft_type].layers)

    @property
    def virtual_tokens(self) -> int:
        """Positions that the adapter takes up before every text; 0 for most kinds."""
        return ADAPTER_KINDS[self.peft_type].positions(self) if self.apply_lora else 0

    @property
    def peft_settings(self) -> dict[str, Any]:
        """The parameters that the kind of adapter uses, under PEFT's names."""
        kind = ADAPTER_KINDS[self.peft_type]
        values = {kind.in_peft(name): getattr(self, name) for name in self._read()}
        # "true" and "false" of a choice are booleans in PEFT.
        return {name: {"true": True, "false": False}.get(str(value), value) for name, value in values.items()}

    def _read(self) -> list[str]:
        return [name for name, mark in marks(self._declared).items() if self.peft_type in mark.kinds]

    def conflicts(self) -> Iterator[Problem]:
        """Refuse parameters that the kind of adapter does not use."""
        if not self.apply_lora:
            yield from self._without_adapter()
            return
        yield from self._ignored()
        yield from kwargs_problems(self.peft_type, self.peft_kwargs, peft_names(self._declared))
        yield from self._layer_problems()
        if self.init_lora_weights == "orthogonal" and self.lora_r % 2:
            yield Problem("PARAM-E0264", "init_lora_weights", f"orthogonal with lora_r={self.lora_r}",
                          "an even rank", f"set lora_r={self.lora_r + 1}",
                          why="each of the two matrices gets half of the rank's vectors")  # fmt: skip

    def _without_adapter(self) -> Iterator[Problem]:
        """Refuse a kind of adapter without apply_lora; ranks may stay, because files often copy their defaults."""
        shaping = [name for name, mark in marks(self._declared).items() if not mark.without_adapter]
        for name in ("peft_type", *shaping, "peft_kwargs"):
            value = getattr(self, name)
            if value != self._default(name):
                yield Problem("PARAM-E0261", name, f"{shown(value)} with apply_lora=false", "apply_lora=true",
                              "set apply_lora=true, or leave it out")  # fmt: skip

    def _default(self, name: str) -> Any:
        return default_in(self._declared, name)

    @property
    def _declared(self) -> type[Group]:
        """The class with these parameters as fields; a pipeline may have other names for them (`Group.own_names`)."""
        return type(self) if "lora_r" in type(self).model_fields else LoraParams

    def _ignored(self) -> Iterator[Problem]:
        marked, read = marks(self._declared), self._read()
        for name in sorted(set(marked) - set(read)):
            value, default = getattr(self, name), self._default(name)
            if value == default:
                continue
            other = next(other for other in ADAPTER_KINDS if other in marked[name].kinds)
            instead = f"leave it out, or set peft_type={other}"
            if name == "lora_dropout" and "rank_dropout" in ADAPTER_KINDS[self.peft_type].kwargs:
                instead = 'leave it out, or set peft_kwargs={"rank_dropout": …} for rows of the update'
            yield Problem("PARAM-E0261", name, f"{shown(value)} with peft_type={self.peft_type}",
                          shown(default), instead, why=f"it has no effect for {self.peft_type}")  # fmt: skip

    def _layer_problems(self) -> Iterator[Problem]:
        last = {name: name.rsplit(".", 1)[-1] for name in self.targets}
        others = set(last.values()) - WITHOUT_ADAPTER
        for name in self.targets:
            # Lists that are used for many models name embeddings beside layers: the plan says that they get no adapter.
            if last[name] in (HEADS if others else WITHOUT_ADAPTER):
                yield Problem("PARAM-E0265", "lora_target_modules", name, "layers between the embeddings and the "
                              "head, such as q_proj", f"leave {name} out")  # fmt: skip
        kwargs = self.peft_kwargs
        if "layers_to_transform" in kwargs and not self.targets:
            yield Problem("PARAM-E0263", "peft_kwargs.layers_to_transform", "a choice of layers with "
                          f"lora_target_modules={self.lora_target_modules}", "module names",
                          "set lora_target_modules to names such as q_proj,v_proj",
                          why="PEFT selects layers only among named modules")  # fmt: skip
        if "layers_pattern" in kwargs and "layers_to_transform" not in kwargs:
            yield Problem("PARAM-E0263", "peft_kwargs.layers_pattern", shown(kwargs["layers_pattern"]),
                          "layers_to_transform as well", "set layers_to_transform, or leave it out")  # fmt: skip
        scaled = kwargs.get("feedforward_modules") or []
        for name in scaled if self.targets and isinstance(scaled, list) else []:
            if name not in self.targets:
                yield Problem("PARAM-E0263", "peft_kwargs.feedforward_modules", shown(name),
                              "names that are also in lora_target_modules", f"add {name} to it")  # fmt: skip
