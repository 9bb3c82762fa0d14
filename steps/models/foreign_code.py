"""What a model's own files ask for beyond them: Python files, kernels from the Hub, files elsewhere. None is read."""

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
# Names of a model's own: a class may be called like one of the keys above.
LABELS = ("id2label", "label2id")
# Files that transformers opens in place of those that were checked; where a folder has its own, it uses that.
OTHER_FILES = ("configuration_files", "fast_tokenizer_files", "gguf_file", "transformers_weights")
CHECKED = ("model.safetensors", "model.safetensors.index.json")
ITS_OWN = ("tokenizer_file", "special_tokens_map_file", "added_tokens_file")  # older versions stored their paths
# What a tokenizer is made of when it is loaded; no stored one has these, and a text is the path of a file.
PARTS = ("vocab", "merges", "tokenizer_object", "_spm_precompiled_charsmap", "_json_padding", "_json_truncation")


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
        if name in OTHER_FILES and value and value not in CHECKED:
            raise _elsewhere(place, name, value)


def refuse_other_files(where: str, config: Mapping[str, Any]) -> None:
    """Raise SecurityRefusal when tokenizer_config.json names files or parts that a tokenizer would be made of."""
    for name, value in config.items():
        if value and (name in PARTS or (name.endswith("_file") and name not in ITS_OWN)):
            raise _elsewhere(where, name, value)


def _elsewhere(where: str, name: str, value: Any) -> SecurityRefusal:
    return SecurityRefusal(
        Problem("MODEL-E0306", where, f"{name}: {shown(value)}, which would be read in place of the model's own files",
                f"{name} left out", "remove it from the configuration")
    )  # fmt: skip


def _named(where: str, told: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield the entries of a configuration and of those inside it, each with its place; depth is bounded by reading."""
    if isinstance(told, list):
        for one in told:
            yield from _named(where, one)
    for name, value in told.items() if isinstance(told, Mapping) else ():
        yield where, name, value
        if name not in LABELS and isinstance(value, Mapping | list):
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
