"""Import the base model into the run."""

from __future__ import annotations

import hashlib
import logging
import math
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from steps.adapters.layout import REFERENCE_FOLDER
from steps.artifacts import BLOCK, Draft, Manifest, new_artifact, read_manifest, sha256_of
from steps.errors import Problem, UserError
from steps.import_model.adapter import with_adapter
from steps.import_model.bringing import bring
from steps.import_model.new_tokens import Write, extension_of
from steps.models.headers import read_shapes
from steps.models.layout import CONFIG, TOKENIZER_NAMES, ModelLayout, read_layout
from steps.models.tokenizer_files import unfit_files
from steps.params.model_source import SOURCE_PARAMETER
from steps.params.settings import ENDPOINT, ImportSettings, ModelSourceFound
from steps.sources.model_files import ModelFiles

log = logging.getLogger("finetune")


def import_model(settings: ImportSettings, model: Path, tokenizer: Path) -> Manifest:
    """Copy a checked model to `model` and its tokenizer to `tokenizer`.

    An adapter given with the model is merged, or stored in the model's folder adapter/; a separate reference model for
    preference training is stored in reference/. Of a model that a server has, both artifacts only tell where it is:
    they have no files, and the fact given=false. Raises UserError if a source is not usable or changed since the plan,
    SecurityRefusal for pickles and remote code, Outage if a source is not available, NumericError as `with_adapter`.
    """
    if settings.kind == ENDPOINT:
        return _left_to_a_server(settings, model, tokenizer)
    parameter = SOURCE_PARAMETER["mlflow" if settings.registered else settings.kind]
    with TemporaryDirectory() as place, ExitStack() as stack:
        scratch = Path(place)
        judge = partial(read_layout, parameter, settings.kind, with_weights=not settings.new_weights)
        found = bring(parameter, settings.kind, settings.source, scratch / "source", judge, settings.mlflow_server_uri)
        _refuse_other_content(settings, *found)
        folder, layout = stack.enter_context(with_adapter(settings, *found, scratch, model.parent))
        _refuse_unfit_tokenizer(parameter, folder, layout)
        lineage = _lineage(settings)
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
            if settings.reference:
                _bring_reference(settings.reference, scratch / "reference", draft)
    log.info(
        "imported %s: %s, %.2f M parameters", settings.source.uri, facts["architecture"], facts["parameters"] / 1e6
    )
    return read_manifest(model)


def _left_to_a_server(settings: ImportSettings, model: Path, tokenizer: Path) -> Manifest:
    for folder, kind in ((tokenizer, "tokenizer"), (model, "model")):
        with new_artifact(folder, kind, _lineage(settings)) as draft:
            draft.facts = {"given": False}
    log.info("nothing to import: %s has the model", settings.source.uri)
    return read_manifest(model)


def _refuse_other_content(settings: ImportSettings, folder: Path, layout: ModelLayout) -> None:
    """Raise UserError if a file is not the one that was registered."""
    for path in sorted(set(layout.files.values()) & set(settings.sha256)):
        if sha256_of(folder / path) != settings.sha256[path]:
            raise UserError(
                Problem("REGISTRY-E0107", f"mlflow_model_path: {settings.registered or settings.source.uri}",
                        f"{path} with other content", "the file that was registered",
                        "restore it, or register the model again")
            )  # fmt: skip


def _refuse_unfit_tokenizer(parameter: str, folder: Path, layout: ModelLayout) -> None:
    """Raise UserError if a file of the tokenizer is truncated or another one."""
    if problems := list(unfit_files(parameter, layout.tokenizer_files, lambda path: (folder / path).read_bytes())):
        raise UserError(problems)


def _lineage(settings: ImportSettings) -> dict[str, Any]:
    """Return the sources of the model, its adapter and its reference."""
    more = {"adapter": settings.adapter, "reference": settings.reference}
    return {
        "source": settings.source.uri,
        **({"registered": settings.registered} if settings.registered else {}),
        "source_digest": settings.source.digest,
        "kind": settings.kind,
        **{name: found.model_dump() for name, found in more.items() if found},
    }


def _bring_reference(found: ModelSourceFound, scratch: Path, draft: Draft) -> None:
    """Copy the reference model for preference training into its folder."""
    parameter = "reference_model_path"
    folder, layout = bring(parameter, found.kind, found.source, scratch, partial(read_layout, parameter, found.kind))
    _check_weights(parameter, folder, layout)
    files = {**layout.weights, **layout.model_files}  # no tokenizer: it gets the same tokens as the trained model
    _copy_all(folder, {f"{REFERENCE_FOLDER}/{name}": path for name, path in files.items()}, draft)


def _check_weights(parameter: str, folder: Path, layout: ModelLayout) -> int:
    """Check every weight file, and the index, as the plan does; return the number of parameters."""
    sizes = {path: (folder / path).stat().st_size for path in layout.weights.values()}
    shapes = read_shapes(ModelFiles(parameter, "pytorch", str(folder), sizes), layout)
    return sum(math.prod(shape) for shape in shapes.values() if shape is not None)


def _facts(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "architecture": (config.get("architectures") or [config.get("model_type", "unknown")])[0],
        "model_type": config.get("model_type", ""),
        "vocab_size": config.get("vocab_size"),
        "dtype": config.get("dtype") or config.get("torch_dtype"),
        "tied": bool(config.get("tie_word_embeddings", False)),
    }


def _copy_all(folder: Path, files: dict[str, str], draft: Draft, writes: dict[str, Write] | None = None) -> None:
    """Copy files by their names; those in `writes` are written by its functions instead."""
    writes = writes or {}
    for name in [*files, *(name for name in writes if name in TOKENIZER_NAMES and name not in files)]:
        target = draft / name
        target.parent.mkdir(exist_ok=True)
        draft.known_digests[name] = writes[name](target) if name in writes else _copy(folder / files[name], target)


def _copy(source: Path, target: Path) -> str:
    """Copy one file and hash it while copying, so that it is read only once."""
    digest = hashlib.sha256()
    with open(source, "rb") as reader, open(target, "wb") as writer:
        while block := reader.read(BLOCK):
            digest.update(block)
            writer.write(block)
    return digest.hexdigest()
