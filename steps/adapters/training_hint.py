"""What a training configuration lets expect of an adapter: a hint for people, for the tensors themselves decide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from steps.errors import Problem, UserError

LARGEST = 1024 * 1024  # bytes


def trained_whole(name: str, content: bytes) -> list[str]:
    """Name what a configuration trains besides the factors: modules_to_save, tokens, every weight.

    Reads a pipeline's configuration, a settings value of finetune, or a configuration with a part `peft_conf`; YAML or
    JSON. Raises UserError when `content`, that of the file `name`, is none of these.
    """
    import yaml

    def refused(found: str) -> UserError:
        return UserError(
            Problem("ADAPTER-E0210", f"training_config {name}", found, "a YAML or JSON file of training settings",
                    "correct the path, or leave it out: the tensors decide anyway")
        )  # fmt: skip

    if len(content) > LARGEST:
        raise refused(f"more than {LARGEST} bytes")
    text = content.decode(errors="replace")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise refused("a YAML alias (*name)")
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise refused(f"no YAML ({getattr(error, 'problem', error)})") from None
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
