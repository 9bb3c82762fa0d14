"""Code that a model's own files ask for: its own Python files, or kernels from the Hub. None of it is run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from steps.errors import Problem, SecurityRefusal, shown

OWN_CODE = ("auto_map", "custom_pipelines", "custom_generate")
# The ways to compute that are part of torch and transformers; every other name is that of a kernel to fetch.
OUR_WAYS = {
    "eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4", "grouped_mm",
    "batched_mm",
}  # fmt: skip
WAYS = re.compile(r"_?(attn|experts)_implementation(_internal|_autoset)?")
KERNELS = ("use_kernels", "kernel_config", "kernels")


def refuse_code(where: str, config: Mapping[str, Any]) -> None:
    """Raise SecurityRefusal when a configuration, or one inside it, names code that is not part of the libraries."""
    for place, name, value in _named(where, config):
        if name in OWN_CODE and value:
            files = sorted({_file(text) for text in _texts(value)})
            raise SecurityRefusal(
                Problem("MODEL-E0302", place, f"a model that needs its own code ({', '.join(files) or name})",
                        "an architecture that is part of transformers", f"use a model without {name}")
            )  # fmt: skip
        fetched = [way for way in _texts(value) if way.removeprefix("paged|") not in OUR_WAYS]
        is_way = WAYS.fullmatch(name)
        if (is_way and fetched) or (name in KERNELS and value):
            others = f", or one of {', '.join(sorted(OUR_WAYS))}" if is_way else ""
            raise SecurityRefusal(
                Problem("MODEL-E0305", place, f"{name}: {shown(value)}, code that would be fetched",
                        f"{name} left out{others}", "remove it from the configuration")
            )  # fmt: skip


def _named(where: str, config: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield the entries of a configuration and of those inside it, each with its place; depth is bounded by reading."""
    for name, value in config.items():
        yield where, name, value
        if name.endswith("_config") and isinstance(value, Mapping):
            yield from _named(f"{where}: {name}", value)


def _texts(value: Any) -> list[str]:
    """Return what a value names, whatever its form: a text, or texts in lists and objects."""
    if isinstance(value, Mapping):
        return [text for one in value.values() for text in _texts(one)]
    if isinstance(value, list | tuple):
        return [text for one in value for text in _texts(one)]
    return [] if value in (None, False) else [str(value)]


def _file(text: str) -> str:
    return text.split(".")[0].split("--")[-1] + ".py"
