"""Whether a model's weights are those of its configuration, by the shapes in their headers.

A configuration of another model is found where a GPU would be asked for it: its sizes need terabytes, or its layers are
filled with random numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from steps.errors import Problem, UserError

# Sizes that are the length of some tensor in every model that has them.
LENGTHS = ("vocab_size", "hidden_size", "n_embd", "d_model")
LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
NUMBER = re.compile(r"\.(\d{1,9})\.")
SHARED = "num_hidden_groups"  # of ALBERT, whose layers share their weights
INSIDE = ("text_config", "vision_config", "audio_config", "encoder", "decoder")  # models of several parts


def refuse_other_weights(where: str, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...] | None]) -> None:
    """Raise UserError if weights, by name → shape, cannot be those of a configuration.

    Nothing is said of shapes that are not known, nor of models of several parts.
    """
    if not shapes or None in shapes.values() or any(config.get(name) for name in INSIDE):
        return
    if problems := list(_misfits(where, config, shapes)):
        raise UserError(problems)


def _misfits(where: str, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...] | None]) -> Iterator[Problem]:
    lengths = {length for shape in shapes.values() for length in shape or ()}
    for name in LENGTHS:
        if type(config.get(name)) is int and config[name] not in lengths:
            yield _misfit(f"{where}: {name}", f"{config[name]:,}, which is the length of no tensor")
    stored = 1 + max((int(number) for name in shapes for number in NUMBER.findall(name)[:8]), default=-1)
    for name in () if config.get(SHARED) else LAYERS:
        if stored and type(config.get(name)) is int and config[name] > stored:
            yield _misfit(f"{where}: {name}", f"{config[name]:,}, but weights of {stored:,} layers")


def _misfit(where: str, found: str) -> Problem:
    return Problem("MODEL-E0128", where, found, "the configuration that these weights were saved with",
                   "upload config.json and the weights of one save")  # fmt: skip
