"""Read from a training configuration which weights are trained whole: only a hint, because the tensors decide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from steps.errors import Problem, UserError
from steps.params.text_file import decoded
from steps.sources.plain_yaml import plain_yaml

LARGEST = 1024 * 1024  # bytes


def trained_whole(name: str, content: bytes) -> list[str]:
    """Return what a configuration trains besides the factors: modules_to_save, tokens, every weight.

    Reads a pipeline's configuration, the settings of finetune, or a configuration with a section `peft_conf`, as YAML
    or JSON. Raises UserError if `content`, that of the file `name`, is not a mapping in YAML or JSON.
    """

    def refused(found: str) -> UserError:
        return UserError(
            Problem("ADAPTER-E0210", f"training_config {name}", found, "a YAML or JSON file of training settings",
                    "correct the path, or leave it out: it is only a hint, the tensors decide")
        )  # fmt: skip

    if len(content) > LARGEST:
        raise refused(f"more than {LARGEST} bytes")
    text = decoded(f"training_config {name}", content)
    try:
        values = plain_yaml(text)
    except ValueError as error:
        raise refused(f"invalid YAML ({error})") from None
    if not isinstance(values, dict):
        raise refused(f"a {type(values).__name__}")
    return sorted(set(_found(values)))


def _found(values: dict[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if name in ("modules_to_save", "trainable_token_indices", "new_tokens", "additional_special_tokens") and value:
            yield name
        elif (name == "peft_type" and value == "NO_PEFT") or (name == "apply_lora" and value is False):
            yield "every weight"
        elif isinstance(value, dict):
            yield from _found(value)
