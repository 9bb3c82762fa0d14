"""End tokens, padding and generation settings that are saved with a tuned model, so that its answers end correctly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steps.artifacts import read_manifest
from steps.models.generation_settings import TOKENS, settings_in
from steps.models.layout import CONFIG, GENERATION
from steps.models.tokenizer_files import TokenizerFiles


def set_end_of_turn(tokenizer: Any, folder: Path, data: Path) -> None:
    """Set the tokenizer's eos_token to the end of a turn, unless tokenizer or model in `folder` already stop at it.

    The Trainer then adds it to the model's generation settings. Some models have the end of a turn only in their
    generation settings; their tokenizer is not changed.
    """
    end = read_manifest(data).facts.get("end_of_turn")
    if end and tokenizer.convert_tokens_to_ids(end) not in {tokenizer.eos_token_id, *ends_of(folder)}:
        tokenizer.eos_token = end


def name_padding(tokenizer: Any, model: Any, folder: Path) -> None:
    """Set the padding token of tokenizer and model to that of the base in `folder`; training may have used another."""
    files = [file.name for file in folder.iterdir()]
    padding = TokenizerFiles.read(files, lambda name: (folder / name).read_bytes()).named("pad_token")
    if padding and padding != tokenizer.pad_token:
        tokenizer.pad_token = padding
        model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id


def save_tokenizer(tokenizer: Any, folder: Path, ends_prompts: bool) -> None:
    """Save a tokenizer; without `ends_prompts`, one that does not append an end token to a text.

    A causal model would give no answer after an end token; other models need the same input as in training.
    """
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer.json"
    if ends_prompts or not file.is_file():
        return
    told = json.loads(file.read_bytes())
    ends = {token for token in (tokenizer.eos_token, tokenizer.init_kwargs.get("eos_token")) if token}
    unending = _without_ends(told.get("post_processor"), {str(end) for end in ends})
    if unending != told.get("post_processor"):
        file.write_text(json.dumps({**told, "post_processor": unending}, indent=2, ensure_ascii=False), "utf-8")


def _without_ends(processor: Any, ends: set[str]) -> Any:
    """Remove the end tokens from the tokenizer's templates for one text and for a pair."""
    if not isinstance(processor, dict):
        return processor
    if processor.get("type") == "Sequence":
        return {**processor, "processors": [_without_ends(one, ends) for one in processor["processors"]]}
    if processor.get("type") != "TemplateProcessing":
        return processor
    kept = {
        form: [piece for piece in processor[form] if piece.get("SpecialToken", {}).get("id") not in ends]
        for form in ("single", "pair")
    }
    return {**processor, **kept}


def stops_anew(model: Any, folder: Path) -> bool:
    """Return whether a model has end tokens that the base in `folder` does not have."""
    written = getattr(model, "generation_config", None)
    return written is not None and not set(_numbers(written.eos_token_id)) <= set(ends_of(folder))


def generation_settings(model: Any, folder: Path) -> dict[str, Any]:
    """Return the generation settings of the base in `folder` with the tuned model's special tokens."""
    own = model.generation_config
    tokens = {name: value for name in TOKENS if (value := getattr(own, name, None)) is not None}
    return settings_in(folder) | tokens


def write_generation_settings(model: Any, folder: Path, target: Path) -> None:
    """Write `generation_settings` to the folder `target`."""
    told = generation_settings(model, folder)
    (target / GENERATION).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def ends_of(folder: Path) -> list[int]:
    """Return all end tokens in a model folder's configurations."""
    told = [json.loads((folder / name).read_bytes()) for name in (GENERATION, CONFIG) if (folder / name).is_file()]
    return [number for config in told for number in _numbers(config.get("eos_token_id"))]


def _numbers(said: int | list[int] | None) -> list[int]:
    return [] if said is None else said if isinstance(said, list) else [said]
