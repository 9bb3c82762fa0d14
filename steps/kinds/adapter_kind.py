"""What differs between the kinds of adapters, and what several of them let one set in `peft_kwargs`.

To add a kind: a file in `adapters/` with its record, a line in `adapters/__init__.py`, its name at those parameters of
`steps/params/lora.py` that it reads, and where its tensors are not laid out as another's, what becomes of a weight in
`steps/adapters/` (`folded_by`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Rows and columns of a weight.
Matrix = tuple[int, int]


@dataclass(frozen=True)
class Values:
    """What a key may be set to."""

    expected: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True, kw_only=True)
class AdapterKind:
    """One kind of adapter. No slot has a default, so that a new kind says something about each.

    `p` stands for a pipeline's parameters or LoraParams.
    """

    # What it is called.

    name: str
    """Value of the parameter peft_type."""
    peft_name: str
    """Value of peft_type in adapter_config.json."""
    renamed: Mapping[str, str]
    """Parameter → what PEFT calls it for this kind, where that is another name."""
    described: Callable[[Any], str]
    """p → what is trained, in a few words for the plan."""

    # What can be set.

    kwargs: Mapping[str, Values]
    """Key of peft_kwargs → its values."""
    never_with: Mapping[str, str]
    """Parameter that must be false → why."""
    layers: frozenset[str]
    """Kinds of layers that PEFT can put it into: linear, conv1d (GPT-2), quantised. Empty: it is put into no layer."""
    heads: tuple[str, ...]
    """What the model must put out; empty: anything."""
    why_heads: str
    """Why it must put out that; empty where it may put out anything."""
    trains_new_rows: bool
    """Whether single rows of the embeddings can be trained beside it, for new tokens."""

    # How it is trained.

    config: str
    """PEFT's class of its settings, by name."""
    settings_by: str
    """Name of the function (LoraParams, model, modules that are trained whole) → arguments of that class."""
    positions: Callable[[Any], int]
    """p → positions of the model that it takes up before every text."""
    size: Callable[[Any, int, Sequence[Matrix], float], float]
    """(p, hidden size, the matrices of one layer as (inputs, outputs), number of layers) → trained parameters."""

    # What becomes of it.

    understood: frozenset[str]
    """Keys of adapter_config.json that change nothing in what it computes, or that the merge takes into account."""
    harmless: Mapping[str, tuple[Any, ...]]
    """Key of adapter_config.json → values with which training begins without changing the base's weights."""
    tensors_begin: str
    """What the names of its tensors begin with, behind that of the layer."""
    tensors: str
    """Regular expression of these names, whole."""
    folded_by: str
    """Name of the object that says where its tensors belong and what becomes of a weight (`Folding` in
    `steps/adapters/kinds.py`); empty where no weight can hold it, and the tuned model keeps it in a folder."""
    kept_because: str
    """What it is and why no weight can hold it; empty where it is folded in."""
    merging: str
    """What merge_adapter does with it, in a few words for the plan."""
    served_by_vllm: bool
    """Whether vLLM can serve it beside its base."""

    @property
    def is_kept(self) -> bool:
        """Whether no weight can hold it."""
        return not self.folded_by

    def in_peft(self, parameter: str) -> str:
        """Give PEFT's name of a parameter that this kind reads."""
        return self.renamed.get(parameter, parameter)

    def fits(self, layer: str) -> bool:
        """Say whether a model with this kind of layers can be tuned by it."""
        return not self.layers or layer in self.layers


def no_positions(p: Any) -> int:
    """Take up no positions: for kinds that are put into layers."""
    return 0


def for_every_matrix(
    count: Callable[[Any, int, int], float],
) -> Callable[[Any, int, Sequence[Matrix], float], float]:
    """Make a `size` out of the trained parameters of one matrix: (p, inputs, outputs) → their number."""

    def size(p: Any, hidden: int, matrices: Sequence[Matrix], layers: float) -> float:
        return layers * sum(count(p, *matrix) for matrix in matrices)

    return size


# Keys of adapter_config.json that mean the same for every kind that is put into layers.
UNDERSTOOD_OF_ALL = frozenset({
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode", "modules_to_save", "peft_type",
    "peft_version", "revision", "target_modules", "task_type",
})  # fmt: skip


def is_whole(value: Any) -> bool:
    """Say whether a value is a whole number, which true and false are not."""
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
    except re.error:
        return False


def _layers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(is_whole(layer) and layer >= 0 for layer in value)


NAMES = Values("a list of module names", _names)
YES_OR_NO = Values("true or false", lambda value: isinstance(value, bool))
DROPOUT = Values("a number from 0 up to 1", _share)
# Keys of peft_kwargs of most kinds that are put into layers.
CHOOSING = {
    "exclude_modules": NAMES,
    "layers_to_transform": Values("a list of layer numbers, the first one 0", _layers),
    "layers_pattern": Values("the name of the list of layers, such as layers", lambda value: isinstance(value, str)),
}
# Those of every kind whose matrices have a rank.
RANKS = {
    "rank_pattern": Values(
        "whole numbers of at least 1 by module name", _by_name(lambda rank: is_whole(rank) and rank > 0)
    ),
    "alpha_pattern": Values("numbers above 0 by module name", _by_name(lambda a: isinstance(a, int | float) and a > 0)),
}
