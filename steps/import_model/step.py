"""Bring the base model into the run."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from steps import hub, storage
from steps.artifacts import BLOCK, Draft, Manifest, new_artifact, read_manifest
from steps.errors import Problem, SecurityRefusal, UserError
from steps.import_model.new_tokens import Write, extension_of
from steps.model_layout import CONFIG, TOKENIZER_NAMES, ModelLayout, read_layout
from steps.params.model_source import SOURCE_PARAMETER
from steps.params.settings import ImportSettings
from steps.weights import stored_tensors

log = logging.getLogger("finetune")


def import_model(settings: ImportSettings, model: Path, tokenizer: Path) -> Manifest:
    """Copy a checked model to `model` and its tokenizer to `tokenizer`.

    Raises UserError when the source is no usable model or changed since the plan, SecurityRefusal for pickles and
    remote code, Outage when the source does not answer.
    """
    parameter = SOURCE_PARAMETER[settings.kind]
    with TemporaryDirectory() as scratch:
        folder, layout = _bring(parameter, settings, Path(scratch))
        lineage = {"source": settings.source.uri, "source_digest": settings.source.digest, "kind": settings.kind}
        parameters = _check_weights(parameter, folder, layout)
        extension = extension_of(parameter, settings, folder, layout)
        facts = {**_facts(extension.config), "parameters": parameters + extension.added, **extension.facts}
        if settings.new_weights:
            facts |= {"parameters": replace(layout, config=extension.config).size, "weights": "new"}
        with new_artifact(tokenizer, "tokenizer", lineage) as draft:
            _copy_all(folder, {**layout.tokenizer_files, CONFIG: layout.model_files[CONFIG]}, draft, extension.writes)
        with new_artifact(model, "model", lineage) as draft:
            draft.facts = {**facts, "left_out": list(layout.left_out)}
            _copy_all(folder, layout.files, draft, extension.writes)
    log.info(
        "imported %s: %s, %.2f M parameters", settings.source.uri, facts["architecture"], facts["parameters"] / 1e6
    )
    return read_manifest(model)


def _bring(parameter: str, settings: ImportSettings, scratch: Path) -> tuple[Path, ModelLayout]:
    """Fetch the files that matter; local folders stay where they are."""
    source = settings.source
    if settings.kind == "huggingface":
        repository = hub.resolve(source.uri, source.digest)
        layout = read_layout(
            parameter, settings.kind, repository.files, repository.read, with_weights=not settings.new_weights
        )
        return repository.download(sorted(set(layout.files.values()))), layout
    now = storage.digest_of(parameter, source.uri)
    if now != source.digest:
        raise UserError(
            Problem("MODEL-E0110", parameter, f"content {now[:12]} at {source.uri}",
                    f"{source.digest[:12]}, as planned", "run again: the model changed after the plan looked at it")
        )  # fmt: skip
    folder = storage.fetch(parameter, source.uri, scratch / "source")
    names = {name: info["size"] for name, info in storage.find_files(parameter, str(folder)).items()}
    _refuse_escaping_links(parameter, folder, names)
    layout = read_layout(
        parameter, settings.kind, names, lambda name: (folder / name).read_bytes(), not settings.new_weights
    )
    return folder, layout


def _refuse_escaping_links(parameter: str, folder: Path, names: dict[str, Any]) -> None:
    root = folder.resolve()
    # A Hub cache links its snapshots to blobs two levels up; nothing else may leave the folder.
    allowed = root.parent.parent if root.parent.name == "snapshots" else root
    for name in names:
        if not (folder / name).resolve().is_relative_to(allowed):
            raise SecurityRefusal(
                Problem("MODEL-E0303", parameter, f"{name}, a link out of the folder", "files inside the folder",
                        "copy the file into the folder")
            )  # fmt: skip


def _check_weights(parameter: str, folder: Path, layout: ModelLayout) -> int:
    """Check every weight file's header against its size; return the number of parameters."""
    total = 0
    problems = []
    for name, source in layout.weights.items():
        if not name.endswith(".safetensors"):
            continue
        try:
            total += sum(tensor.rows * tensor.row_size for tensor in stored_tensors(folder / source).values())
        except ValueError as error:
            problems.append(
                Problem("MODEL-E0111", f"{parameter}: {source}", str(error), "a whole safetensors file",
                        "upload the file again")
            )  # fmt: skip
    if problems:
        raise UserError(problems)
    return total


def _facts(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "architecture": (config.get("architectures") or [config.get("model_type", "unknown")])[0],
        "model_type": config.get("model_type", ""),
        "vocab_size": config.get("vocab_size"),
        "dtype": config.get("dtype") or config.get("torch_dtype"),
        "tied": bool(config.get("tie_word_embeddings", False)),
    }


def _copy_all(folder: Path, files: dict[str, str], draft: Draft, writes: dict[str, Write]) -> None:
    for name in [*files, *(name for name in writes if name in TOKENIZER_NAMES and name not in files)]:
        target = draft / name
        draft.known_digests[name] = writes[name](target) if name in writes else _copy(folder / files[name], target)


def _copy(source: Path, target: Path) -> str:
    """Copy one file and hash it on the way, so that no byte is read twice."""
    digest = hashlib.sha256()
    with open(source, "rb") as reader, open(target, "wb") as writer:
        while block := reader.read(BLOCK):
            digest.update(block)
            writer.write(block)
    return digest.hexdigest()
