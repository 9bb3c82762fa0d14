"""Whether the layers that an adapter is put into exist, by the names of the model's tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from steps.adapters.asked import Seen
from steps.errors import Problem, UserError, nearest, shown
from steps.params.lora import WITHOUT_ADAPTER, LoraParams
from steps.params.patterns import at_end, matched

LAYERS_SHOWN = 12
# Keys of peft_kwargs with names of layers: a list, or a mapping whose keys are regular expressions.
NAMED = ("exclude_modules", "feedforward_modules")
PATTERNS = ("rank_pattern", "alpha_pattern")
# The number of a layer in the path of a module.
NUMBERED = re.compile(r"(.*\.)?([^.]+)\.\d+\.")


def target_problems(seen: Seen) -> Iterator[Problem]:
    """Yield a problem for each parameter that names layers which the model does not have."""
    p, layers = seen.parameters, _layers(seen)
    if not layers:
        return
    last = sorted({path.rsplit(".", 1)[-1] for path in layers})
    expected = f"layers of the model: {_listed(last)}"
    chosen = chosen_layers(p, layers)
    if not chosen:
        found = p.lora_target_modules
        near = next(filter(None, (nearest(name, last) for name in p.targets)), "")
        yield Problem("PLAN-E0386", "lora_target_modules", shown(found), expected,
                      near or "set lora_target_modules=all-linear", why="an adapter needs a layer")  # fmt: skip
    for key, name in _named(p.peft_kwargs):
        if not _matching(key, name, layers):
            yield Problem("PLAN-E0387", f"peft_kwargs.{key}", shown(name), expected,
                          nearest(name, last) or "leave it out", why="it matches no layer")  # fmt: skip
    excluded = p.peft_kwargs.get("exclude_modules")
    kept = [path for path in chosen if not any(is_named(path, name) for name in _texts(excluded))]
    if chosen and not kept:
        yield Problem("PLAN-E0388", "peft_kwargs.exclude_modules", shown(excluded),
                      f"fewer than all layers of lora_target_modules={p.lora_target_modules}",
                      "leave some of them out", why="no layer is left for the adapter")  # fmt: skip
    yield from _pattern_problems(p.peft_kwargs.get("layers_pattern"), layers)


def target_notes(seen: Seen) -> Iterator[str]:
    """Note the names in lora_target_modules that match nothing, where others do."""
    layers = _layers(seen)
    unknown = [name for name in seen.parameters.targets if not any(is_named(path, name) for path in layers)]
    if layers and unknown:
        yield f"lora_target_modules: the model has no layer {', '.join(unknown)}; the others get an adapter"


def chosen_layers(p: LoraParams, layers: Iterable[str]) -> list[str]:
    """Return the paths of the layers that lora_target_modules names: by names, or by a regular expression.

    Raises UserError for an expression that takes too long.
    """
    if p.target_expression:
        paths = tuple(layers)
        fits = _fitting("lora_target_modules", p.target_expression, paths)
        return [path for path in paths if path in fits]
    return [path for path in layers if not p.targets or any(is_named(path, name) for name in p.targets)]


def in_names(p: LoraParams, shapes: Mapping[str, tuple[int, ...] | None]) -> str:
    """Write the layers of a regular expression as names, separated by commas; empty if it matches nothing.

    ".*[qv]_proj" → "q_proj,v_proj"; full paths where the names alone would match more layers.
    """
    layers = linear_layers(shapes)
    chosen = set(chosen_layers(p, layers))
    last = sorted({path.rsplit(".", 1)[-1] for path in chosen})
    if {path for path in layers if path.rsplit(".", 1)[-1] in last} == chosen:
        return ",".join(last)
    return ",".join(path for path in layers if path in chosen)


def linear_layers(shapes: Mapping[str, tuple[int, ...] | None]) -> list[str]:
    """Return the paths of the layers between the embeddings and the head that may get an adapter."""
    return [
        name.removesuffix(".weight")
        for name, shape in shapes.items()
        if name.endswith(".weight")
        and (shape is None or len(shape) == 2)
        and name.split(".")[-2] not in WITHOUT_ADAPTER
    ]


def is_named(path: str, name: str) -> bool:
    """Return whether a layer has this name or ends in it; the files of some models leave out the start of paths."""
    return path == name or path.endswith("." + name) or ("." in path and name.endswith("." + path))


def _layers(seen: Seen) -> list[str]:
    """Return the layers of the model; none without a new adapter in layers, or where no header could be read."""
    p = seen.parameters
    return linear_layers(seen.shapes) if p.apply_lora and p.in_layers and p.adapter_use != "continue" else []


def _named(kwargs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key in (*NAMED, *PATTERNS):
        yield from ((key, name) for name in _texts(kwargs.get(key)))


def _texts(value: Any) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list | dict) else []


def _matching(key: str, name: str, layers: list[str]) -> bool:
    if key in NAMED:
        return any(is_named(path, name) for path in layers)
    return bool(_fitting(f"peft_kwargs.{key}", at_end(name), tuple(layers)))


def _fitting(parameter: str, pattern: str, layers: tuple[str, ...]) -> frozenset[str]:
    """Return the layers that an expression matches. Raises UserError for one that takes too long."""
    try:
        return matched(pattern, layers)
    except ValueError as error:
        raise UserError(
            Problem("PLAN-E0390", parameter, f"{shown(pattern)}: {error}",
                    "a regular expression that matches the names of layers at once", "list the names of the layers")
        ) from None  # fmt: skip


def _pattern_problems(name: Any, layers: Iterable[str]) -> Iterator[Problem]:
    lists = sorted({found[2] for path in layers if (found := NUMBERED.match(path))})
    if isinstance(name, str) and lists and name not in lists:
        yield Problem("PLAN-E0389", "peft_kwargs.layers_pattern", shown(name), f"the list of layers: {_listed(lists)}",
                      nearest(name, lists) or f"set it to {lists[0]}, or leave it out")  # fmt: skip


def _listed(names: list[str]) -> str:
    return ", ".join(names[:LAYERS_SHOWN]) + (" …" if len(names) > LAYERS_SHOWN else "")
