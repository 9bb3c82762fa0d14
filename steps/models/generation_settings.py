"""Generation settings that come with a model, of which training and evaluation use only the special tokens.

transformers refuses to save settings that contradict each other, such as a temperature without sampling, and to load
some; generate() would also add a model's settings to ours. So a model is loaded without them, and the file is written
for the tuned model as the base has it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steps.errors import Problem, UserError, shown
from steps.models.layout import CONFIG, GENERATION

TOKENS = (
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "forced_eos_token_id",
)  # fmt: skip
# Marian models need these: their padding token is an ordinary token of the output.
NEVER_WRITTEN = ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens")


def load_reduced(auto_class: Any, folder: Path, **how: Any) -> Any:
    """Load a model with `auto_class.from_pretrained(folder, …)` and reduce its generation settings."""
    if (folder / GENERATION).is_file():
        how["generation_config"] = _of(_stored(folder))
    try:
        return reduced(auto_class.from_pretrained(folder, **how))
    except (ValueError, RuntimeError) as error:
        if (found := _unfit(error)) is None:
            raise
        raise UserError(
            Problem("MODEL-E0231", str(folder), found, "a model that this version of transformers loads",
                    "store the model again with its own configuration, or name another one")
        ) from error  # fmt: skip


def _unfit(error: Exception) -> str | None:
    """Say what is wrong with a model that transformers does not load; None if the reason is another one."""
    said = str(error)
    if "does not recognize this architecture" in said:
        return said.partition(" but ")[0].strip() + ", which transformers does not know"
    return "weights of other shapes than config.json tells" if "ignore_mismatched_sizes" in said else None


def _stored(folder: Path) -> dict[str, Any]:
    """Read the file of a model's generation settings. Raises UserError for one that has none."""
    try:
        told = json.loads((folder / GENERATION).read_bytes())
    except (ValueError, RecursionError):
        told = None
    fault = "" if isinstance(told, dict) else "no JSON object"
    for name in () if fault else TOKENS:
        value = told.get(name)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if any(type(one) is not int for one in ids):
            fault = f"{name}={shown(value)}"
    if fault:
        raise UserError(
            Problem("MODEL-E0232", f"{folder.name}/{GENERATION}", fault, "settings as transformers writes them",
                    "correct the file, or delete it: it may be missing")
        )  # fmt: skip
    return dict(told)


def reduced(model: Any) -> Any:
    """Reduce a model's generation settings to special tokens; other kinds of models have none."""
    own = getattr(model, "generation_config", None)
    if own is not None:
        model.generation_config = _of({name: getattr(own, name, None) for name in (*TOKENS, *NEVER_WRITTEN)})
    return model


def can_be_loaded(folder: Path) -> bool:
    """Return whether transformers loads a model folder's own generation settings."""
    from transformers import GenerationConfig

    try:
        GenerationConfig(**settings_in(folder))
    except (ValueError, TypeError, AttributeError, KeyError):  # of values that it has never seen
        return False
    return True


def settings_in(folder: Path) -> dict[str, Any]:
    """Return the generation settings of a model folder: of their own file, else those in config.json."""
    if (folder / GENERATION).is_file():
        return _stored(folder)
    from transformers import GenerationConfig

    try:
        told = GenerationConfig.from_pretrained(folder, config_file_name=CONFIG, _from_model_config=True)
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in told.to_diff_dict().items() if name != "_from_model_config"}


def _of(told: dict[str, Any]) -> Any:
    from transformers import GenerationConfig

    tokens = {name: told[name] for name in TOKENS if told.get(name) not in (None, -1)}  # -1: none
    never = {name: told[name] for name in NEVER_WRITTEN if told.get(name)}
    try:
        return GenerationConfig(**tokens, **never)
    except ValueError:  # tokens that are forced and forbidden
        return GenerationConfig(**tokens)
