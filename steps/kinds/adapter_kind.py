"""The record of a kind of adapter, and the keys of `peft_kwargs` that several kinds share.

To add a kind: a file with its record in `adapters/`, a line in `adapters/__init__.py`, and its name at the parameters
in `steps/params/lora.py` that it reads. If its tensor layout differs from that of all other kinds, also its merge in
`steps/adapters/` (`folded_by`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Rows and columns of a weight matrix.
Matrix = tuple[int, int]


@dataclass(frozen=True)
class Values:
    """The valid values of a key."""

    expected: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True, kw_only=True)
class AdapterKind:
    """One kind of adapter. No field has a default, so that each new kind must set all of them.

    `p` is a pipeline's parameters or LoraParams.
    """

    # Names.

    name: str
    """Value of the parameter peft_type."""
    peft_name: str
    """Value of peft_type in adapter_config.json."""
    renamed: Mapping[str, str]
    """Parameter → PEFT's name for it with this kind, if different."""
    described: Callable[[Any], str]
    """p → the trained adapter, in a few words for the plan."""

    # Supported settings and models.

    kwargs: Mapping[str, Values]
    """Key of peft_kwargs → its valid values."""
    never_with: Mapping[str, str]
    """Parameter that must be false → why."""
    layers: frozenset[str]
    """Kinds of layers that PEFT can add it to: linear, conv1d (GPT-2), quantised. Empty: it is not added to layers."""
    heads: tuple[str, ...]
    """Kinds of models that support it, by name; empty: all."""
    why_heads: str
    """The reason for `heads`; empty if all kinds support it."""
    trains_new_rows: bool
    """Whether single rows of the embeddings can be trained in addition, for new tokens."""

    # Training.

    config: str
    """Name of PEFT's configuration class."""
    settings_by: str
    """Name of the function (LoraParams, model, fully trained modules) → arguments of that class."""
    positions: Callable[[Any], int]
    """p → number of the model's positions that it uses before each text."""
    size: Callable[[Any, int, Sequence[Matrix], float], float]
    """(p, hidden size, the matrices of one layer as (inputs, outputs), number of layers) → trained parameters."""

    # Merge and serving.

    understood: frozenset[str]
    """Keys of adapter_config.json that do not change its output, or that the merge handles."""
    harmless: Mapping[str, tuple[Any, ...]]
    """Key of adapter_config.json → values whose initialisation does not change the base model's weights."""
    tensors_begin: str
    """Prefix of its tensors' names, after the name of the layer."""
    tensors: str
    """Regular expression that matches these names in full."""
    folded_by: str
    """Name of the object that maps its tensors to weights and merges them (`Folding` in `steps/adapters/kinds.py`);
    empty if it cannot be merged into weights: the tuned model then keeps it in a folder."""
    kept_because: str
    """A description of it and why it cannot be merged; empty if it can."""
    merging: str
    """The work of merge_adapter, in a few words for the plan."""
    served_by_vllm: bool
    """Whether vLLM can serve it beside its base model."""

    @property
    def is_kept(self) -> bool:
        """Whether it cannot be merged into weights, so that the tuned model keeps it in a folder."""
        return not self.folded_by

    def in_peft(self, parameter: str) -> str:
        """Return PEFT's name of a parameter that this kind reads."""
        return self.renamed.get(parameter, parameter)

    def fits(self, layer: str) -> bool:
        """Return whether this kind supports models with the given kind of layers."""
        return not self.layers or layer in self.layers


def no_positions(p: Any) -> int:
    """Return 0: the `positions` of kinds that are added to layers."""
    return 0


def for_every_matrix(
    count: Callable[[Any, int, int], float],
) -> Callable[[Any, int, Sequence[Matrix], float], float]:
    """Return a `size` function from `count`: (p, inputs, outputs) → number of trained parameters of one matrix."""

    def size(p: Any, hidden: int, matrices: Sequence[Matrix], layers: float) -> float:
        return layers * sum(count(p, *matrix) for matrix in matrices)

    return size


# Keys of adapter_config.json with the same meaning for every kind that is added to layers.
UNDERSTOOD_OF_ALL = frozenset({
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode", "modules_to_save", "peft_type",
    "peft_version", "revision", "target_modules", "task_type",
})  # fmt: skip


def is_whole(value: Any) -> bool:
    """Return whether a value is an integer; a boolean is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1


def _names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) and name for name in value)


def _by_name(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def fit(value: Any) -> bool:
        return isinstance(value, dict) and bool(value) and all(map(fits, value.values())) and all(map(_pattern, value))

    return fit


def _pattern(name: str) -> bool:
    try:
        return bool(re.compile(name))
    except (re.error, OverflowError, RecursionError):
        return False


def _layers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(is_whole(layer) and layer >= 0 for layer in value)


NAMES = Values("a list of module names", _names)
YES_OR_NO = Values("true or false", lambda value: isinstance(value, bool))
DROPOUT = Values("a number of at least 0 and below 1", _share)
# Keys of peft_kwargs of most kinds that are added to layers.
CHOOSING = {
    "exclude_modules": NAMES,
    "layers_to_transform": Values("a list of layer numbers from 0", _layers),
    "layers_pattern": Values("the module name of the layers, such as layers", lambda value: isinstance(value, str)),
}
# Keys of every kind whose matrices have a rank.
RANKS = {
    "rank_pattern": Values(
        "whole numbers of at least 1 by module name", _by_name(lambda rank: is_whole(rank) and rank > 0)
    ),
    "alpha_pattern": Values("numbers above 0 by module name", _by_name(lambda a: isinstance(a, int | float) and a > 0)),
}
