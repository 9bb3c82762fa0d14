"""Values of a config.json that no model can be built with: told before they end a step in a traceback."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from steps.errors import Problem, UserError, shown

# Keys whose value is a number of something that every model with this key has.
COUNTS = (
    "hidden_size", "n_embd", "d_model", "num_hidden_layers", "n_layer", "num_attention_heads", "n_head",
    "num_key_value_heads", "intermediate_size", "vocab_size",
)  # fmt: skip
# Keys of numbers of positions: there, some models write 0 or null where they have no limit.
POSITIONS = ("max_position_embeddings", "n_positions")
NESTED = "text_config"


def refuse_odd_values(where: str, config: Mapping[str, Any]) -> None:
    """Raise UserError with every value of another type, and with every number below the smallest possible one."""
    if problems := list(_problems(where, config, named=True)):
        raise UserError(problems)


def _problems(where: str, config: Mapping[str, Any], named: bool) -> Iterator[Problem]:
    fix = "upload the file again, or save the model again with save_pretrained"
    kind = config.get("model_type")
    if named and not (isinstance(kind, str) and kind):
        found = "nothing" if kind is None else shown(kind)
        yield Problem("MODEL-E0116", f"{where}: model_type", found, "the name of an architecture, such as llama", fix)
    for name, least in (*((one, 1) for one in COUNTS), *((one, 0) for one in POSITIONS)):
        value = config.get(name)
        if value is None or (isinstance(value, list) and name not in POSITIONS):  # some have a number for each layer
            continue
        if type(value) is not int or value < least:
            expected = f"a whole number of at least {least}"
            yield Problem("MODEL-E0116", f"{where}: {name}", shown(value), expected, fix)
    inner = config.get(NESTED)
    if isinstance(inner, Mapping):
        yield from _problems(f"{where}: {NESTED}", inner, named=False)
    elif inner is not None:
        yield Problem("MODEL-E0116", f"{where}: {NESTED}", shown(inner), "an object", fix)
    rope = config.get("rope_scaling") or config.get("rope_parameters")
    if rope and not isinstance(rope, Mapping):
        yield Problem("MODEL-E0116", f"{where}: rope_scaling", shown(rope), "an object", fix)
