"""Check an adapter that is given with the model: its base, whether it fits, and the parameters that it determines."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from steps.adapters.folders import open_adapter, open_base
from steps.adapters.layout import AdapterLayout, largest_token, read_adapter
from steps.adapters.outlines import in_their_words, write_outline
from steps.adapters.planning import plan_merge
from steps.errors import Problem, UserError
from steps.kinds.recipe import Recipe
from steps.models.layout import CONFIG, ModelLayout, adapter_in
from steps.models.tokenizer_files import unfit_files
from steps.params.adapter_kinds import KINDS_OF_PEFT, marks, peft_names
from steps.params.pipeline import SupervisedParameters
from steps.params.reading import choices_of, default_of
from steps.sources.model_files import ModelFiles, open_files
from steps.sources.storage import local_path

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
WITHOUT_HEAD = {None, "CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION"}


@dataclass(frozen=True)
class ComesWith:
    """An adapter that the plan has checked."""

    files: ModelFiles
    layout: AdapterLayout
    bytes: int
    """Size of its weights in bytes."""
    warnings: tuple[str, ...] = ()


class TakesAdapter(Protocol):
    """Parameters of a pipeline that takes a model with an adapter."""

    @property
    def adapter_path(self) -> str: ...

    @property
    def adapter_use(self) -> str: ...

    @property
    def rows_task(self) -> str: ...


def source_of(parameters: TakesAdapter, files: ModelFiles) -> tuple[ModelFiles, ModelFiles | None]:
    """Return the base's files and the adapter's; `files` are those of the model's parameter, which may be an adapter.

    Raises UserError if two adapters are given, if adapter_use=continue and none is given, or if the base of an adapter
    is not found.
    """
    given = parameters.adapter_path.strip()
    is_adapter = files.kind != "mlflow" and adapter_in(files.names) is not None
    if is_adapter and given:
        raise UserError(
            Problem("MODEL-E0123", f"adapter_path, {files.parameter}", "two adapters", "one adapter",
                    "merge one of them first (python -m steps merge-adapter), and name the result as the model")
        )  # fmt: skip
    if is_adapter:
        return _base_of(files), files
    if given:
        return files, open_files("adapter_path", "pytorch", given)
    if parameters.adapter_use == "continue":
        raise UserError(
            Problem("PLAN-E0351", "adapter_use", "continue without an adapter", "an adapter to continue training",
                    "set adapter_path to its folder, or leave adapter_use out")
        )  # fmt: skip
    return files, None


def look_at_adapter(
    parameters: TakesAdapter, recipe: Recipe, base: ModelFiles, model: ModelLayout, files: ModelFiles
) -> ComesWith:
    """Check an adapter by its settings and the weight headers of both. Raises UserError with all problems."""
    layout = read_adapter(files.parameter, files.names, files.read)
    problems = [
        *_task_problems(parameters, recipe, files, layout),
        *_vocabulary_problems(files, layout, model.config),
    ]
    try:
        problems += _fit_problems(parameters, base, model, files, layout)
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(problems)
    size = files.names[layout.adapter_files["adapter_model.safetensors"]]
    return ComesWith(files, layout, size, tuple(_warnings(base, files, layout)))


def with_tokenizer(model: ModelLayout, layout: AdapterLayout) -> ModelLayout:
    """Return the model's layout with the adapter's tokenizer configuration, if the adapter has a tokenizer."""
    return replace(model, tokenizer_config=layout.tokenizer_config) if layout.has_tokenizer else model


def continued(parameters: SupervisedParameters, adapter: ComesWith) -> SupervisedParameters:
    """Return the parameters with the settings of the adapter whose training is continued.

    Raises UserError if a parameter contradicts the adapter.
    """
    settled: dict[str, Any] = {"apply_lora": True}
    problems = []
    told = _told(adapter.layout.config, type(parameters))
    for name in ("peft_type", *marks(type(parameters)), "peft_kwargs"):
        wanted, default = getattr(parameters, name), default_of(type(parameters).model_fields[name])
        has = told.get(name)
        if wanted != default and (has is None or _as_set(wanted) != _as_set(has)):
            found = (
                f"{wanted} where the adapter has {has}" if has is not None else f"{wanted} with adapter_use=continue"
            )
            problems.append(
                Problem("PLAN-E0352", name, found, "the adapter's own value",
                        "leave it out, or set adapter_use=merge to train a new adapter",
                        why="training continues with this adapter")
            )  # fmt: skip
        if has is not None:
            settled[name] = has
    if problems:
        raise UserError(problems)
    return parameters.model_copy(update=settled)


def _base_of(files: ModelFiles) -> ModelFiles:
    """Find the base model of an adapter that is given in place of the model."""
    layout = read_adapter(files.parameter, files.names, files.read)
    where = f"{files.parameter}: base_model_name_or_path"
    instead = f"name the base with huggingface_id or pytorch_model_path, and {files.uri} with adapter_path"
    if not layout.base:
        raise UserError(
            Problem("MODEL-E0124", where, "no base model", "the model that the adapter belongs to", instead)
        )
    local = local_path(layout.base)
    on_hub = "://" not in layout.base and not (local and local.exists()) and HUB_ID.fullmatch(layout.base)
    revision = str(layout.config.get("revision") or "main")
    try:
        base = open_files(where, "huggingface" if on_hub else "pytorch", layout.base, revision)
    except UserError as error:
        found = f"{layout.base!r}, which cannot be opened ({error.problems[0].found})"
        raise UserError(
            Problem("MODEL-E0124", where, found, "the model that the adapter belongs to", instead)
        ) from error
    if adapter_in(base.names) is not None:
        raise UserError(
            Problem("MODEL-E0123", where, f"{layout.base}, which is an adapter", "an adapter whose base is a model",
                    "merge one of them first (python -m steps merge-adapter), and name the result as the model")
        )  # fmt: skip
    if any(os.path.basename(name) == "MLmodel" for name in base.names):
        return replace(base, kind="mlflow")
    return base


def _task_problems(p: TakesAdapter, recipe: Recipe, files: ModelFiles, layout: AdapterLayout) -> Iterator[Problem]:
    task, own = layout.config.get("task_type") or None, recipe.kind.peft_task
    if p.adapter_use == "merge":
        fits = task in WITHOUT_HEAD or task == own
    else:  # the head of the task is trained too, and must be part of the adapter
        fits = task == own or (task is None and own in WITHOUT_HEAD)
    if not fits:
        yield Problem("PLAN-E0353", files.parameter, f"an adapter with task_type {task or 'none'}",
                      f"task_type {own or 'none'}, as {p.rows_task} needs",
                      "set adapter_use=merge" if task in WITHOUT_HEAD else "name another adapter")  # fmt: skip


def _vocabulary_problems(files: ModelFiles, layout: AdapterLayout, config: Mapping[str, Any]) -> Iterator[Problem]:
    size = config.get("vocab_size")
    if "tokenizer.json" not in layout.tokenizer_files or not size:
        return
    if problems := list(unfit_files(files.parameter, layout.tokenizer_files, files.read)):
        yield from problems
        return
    highest = largest_token(files.read(layout.tokenizer_files["tokenizer.json"]))
    if highest >= size:
        yield Problem("PLAN-E0354", files.parameter, f"a tokenizer with {highest + 1} tokens", f"at most {size}, the "
                      "vocab_size of the base", "name the base that the adapter was trained on")  # fmt: skip


def _fit_problems(
    p: TakesAdapter, base: ModelFiles, model: ModelLayout, files: ModelFiles, layout: AdapterLayout
) -> list[Problem]:
    """Plan the merge on headers only, and return its problems."""
    with TemporaryDirectory() as scratch:
        folders = {files.uri: Path(scratch, "adapter"), base.uri: Path(scratch, "base")}
        write_outline(base, {**model.weights, CONFIG: model.model_files[CONFIG]}, folders[base.uri])
        write_outline(files, layout.adapter_files, folders[files.uri])
        try:
            opened = open_adapter(folders[files.uri])
            planned = plan_merge(open_base(folders[base.uri]), opened)  # type: ignore[arg-type]
        except UserError as error:
            return [in_their_words(problem, folders) for problem in error.problems]
    saved = set(layout.config.get("modules_to_save") or [])
    whole = [change.target.name for change in planned.changes if change.replacement]
    lost = [name for name in whole if name.endswith(".weight") and name.split(".")[-2] not in saved]
    if p.adapter_use == "continue" and lost:
        return [
            Problem("PLAN-E0355", files.parameter, f"an adapter that contains {lost[0]}, which it does not train",
                    "an adapter with trained tensors only", "set adapter_use=merge", count=len(lost))
        ]  # fmt: skip
    return []


def _warnings(base: ModelFiles, files: ModelFiles, layout: AdapterLayout) -> Iterator[str]:
    named = layout.base.rstrip("/")
    if named and base.parameter in ("huggingface_id", "pytorch_model_path", "mlflow_model_path"):
        theirs, ours = (os.path.basename(name.rstrip("/")) for name in (named, base.uri))
        if theirs != ours:
            yield (f"{files.parameter}: the adapter names {named} as its base, but is used with {base.uri}; with other "
                   "weights of the same shape it does not compute what it was trained for")  # fmt: skip


def _told(config: Mapping[str, Any], model: type[SupervisedParameters]) -> dict[str, Any]:
    """Return the parameters that are set by the adapter_config.json of an adapter whose training is continued."""
    told: dict[str, Any] = {"peft_type": KINDS_OF_PEFT.get(config.get("peft_type", ""))}
    for theirs, ours in peft_names(model).items():
        if config.get(theirs) is not None and not marks(model)[ours].at_start:
            told.setdefault(ours, _in_our_words(config[theirs], choices_of(model.model_fields[ours])))
    return told


def _in_our_words(value: Any, choices: tuple[str, ...]) -> Any:
    if isinstance(value, list | set | tuple):
        return ",".join(sorted(map(str, value)))
    return str(value).lower() if choices and isinstance(value, bool) else value


def _as_set(value: Any) -> Any:
    return {part.strip() for part in value.split(",")} if isinstance(value, str) else value
