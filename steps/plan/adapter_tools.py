"""The plan of the pipeline that works on a finished adapter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from steps import hub, storage
from steps.adapter_tools.fitting import judge
from steps.adapter_tools.importing import not_an_adapter
from steps.adapter_tools.tokens import renamed
from steps.adapter_tools.training_hint import LARGEST, trained_whole
from steps.adapter_tools.vllm_ready import differences, sort_out
from steps.adapter_tools.vllm_rules import max_rank, vllm_problems
from steps.artifacts import MANIFEST, Manifest
from steps.errors import Problem, UserError
from steps.merge_adapter.folders import Folder, open_adapter, open_base
from steps.params.group import Group
from steps.params.model_source import SOURCE_PARAMETER
from steps.params.pipelines import AdapterToolsParameters
from steps.params.reading import Reading, read_parameters
from steps.params.settings import AdapterSettings, AdapterToolSettings, Resolved
from steps.plan.deciding import Trouble, asked_for
from steps.plan.hardware import Hardware, import_hardware
from steps.plan.outlines import write_outline
from steps.plan.sources import ModelFound, look_at_model, refuse_bad_uri

WHAT = {
    "merge": "fold the adapter into the base",
    "vllm": "leave out what vLLM does not load",
    "replace_tokens": "rename tokens, load and compare",
    "check": "compare names, shapes and vocabulary",
}


@dataclass(frozen=True)
class AdapterFound:
    """The adapter as the plan saw it."""

    resolved: Resolved
    sizes: dict[str, int]
    """Name → bytes."""


@dataclass(frozen=True)
class Decisions:
    """Everything that was found out and chosen."""

    reading: Reading
    model: ModelFound
    adapter: AdapterFound | None
    hardware: dict[str, Hardware]
    compares: bool
    """Whether the adapter holds tensors that are compared with the base's."""
    trained_whole: list[str]
    warnings: list[str]

    @property
    def parameters(self) -> AdapterToolsParameters:
        """The effective parameters."""
        return _parameters(self.reading)


def decide(pipeline: str, arguments: dict[str, Any]) -> Decisions:
    """Check everything that needs no weights; where they lie on this machine, those as well.

    Raises UserError with everything that is the user's to mend; else the first refusal or outage.
    """
    reading = read_parameters(pipeline, asked_for(pipeline, arguments))
    p = _parameters(reading)
    trouble = Trouble([])
    model = trouble.gather(lambda: look_at_model(p))
    adapter = trouble.gather(lambda: look_at_adapter(p.adapter_path)) if p.adapter_path else None
    hardware = trouble.gather(lambda: import_hardware(p))
    expected = trouble.gather(lambda: _expected(p.training_config)) if p.training_config else []
    trouble.raise_if_any()
    assert model is not None
    assert hardware is not None
    compares, notes = _try(p, model, adapter)
    return Decisions(reading, model, adapter, hardware, compares, expected or [], reading.warnings + notes)


def look_at_adapter(uri: str) -> AdapterFound:
    """Resolve the adapter's folder. Raises as `storage.find_files`, and UserError for a single file."""
    uri = uri.strip()
    refuse_bad_uri("adapter_path", uri)
    sizes = {name: info["size"] for name, info in storage.find_files("adapter_path", uri).items()}
    if "" in sizes:
        raise UserError(
            Problem("ADAPTER-E0101", "adapter_path", f"the file {uri}", "a folder", "name the folder that holds it")
        )
    return AdapterFound(Resolved(uri=uri, digest=storage.digest_of("adapter_path", uri)), sizes)


def settings_of(decisions: Decisions) -> dict[str, Group]:
    """One settings value for each later step, by the name of the plan's output."""
    p = decisions.parameters
    # No tool reads the base's weights without need; the copy would cost more than the work.
    idle = (p.action == "replace_tokens" and p.adapter_path) or (p.action == "vllm" and not decisions.compares)
    return {
        "model": decisions.model.settings.model_copy(update={"new_weights": bool(idle)}),
        "adapter": AdapterSettings(source=decisions.adapter.resolved if decisions.adapter else None),
        "tool": AdapterToolSettings(
            action=p.action,
            replacements=p.replacements,
            on_base=not p.adapter_path,
            compare_with_base=decisions.compares,
            trained_whole=decisions.trained_whole,
        ),
    }


def summary_of(decisions: Decisions) -> dict[str, Any]:
    """The plan as data, in the form of every pipeline's plan.json."""
    p = decisions.parameters
    source = decisions.model.settings.source
    sources = [{"what": "model", "uri": source.uri, "digest": source.digest, "bytes": decisions.model.bytes}]
    if found := decisions.adapter:
        sources.append({"what": "adapter", **found.resolved.model_dump(), "bytes": sum(found.sizes.values())})
    tasks = {
        "import_model": "check and copy the base",
        "import_adapter": "check and copy the adapter" if found else "nothing to import",
        "adapter_tool": WHAT[p.action],
    }
    hardware = decisions.hardware["import"]
    pool = next(iter(hardware.node_selector.values()), "any")
    return {
        "pipeline": decisions.reading.pipeline,
        "task": p.action,
        "requested": decisions.reading.requested,
        "effective": p.model_dump(mode="json", exclude={"overrides"}),
        "translations": [vars(translation) for translation in decisions.reading.translations],
        "warnings": decisions.warnings,
        "tasks": [
            {"task": task, "what": what, "cpu": hardware.cpu, "memory": hardware.memory, "gpu_type": "",
             "gpu_count": "0", "node_pool": pool}
            for task, what in tasks.items()
        ],
        "arithmetic": [],
        "sources": sources,
        "reading": {},
        "memory": None,
    }  # fmt: skip


def _parameters(reading: Reading) -> AdapterToolsParameters:
    assert isinstance(reading.parameters, AdapterToolsParameters)
    return reading.parameters


def _expected(uri: str) -> list[str]:
    refuse_bad_uri("training_config", uri)
    return trained_whole(uri, storage.read_bytes("training_config", uri, LARGEST + 1))


def _try(p: AdapterToolsParameters, model: ModelFound, adapter: AdapterFound | None) -> tuple[bool, list[str]]:
    """Judge the outlines as the tool will judge the files: (whether tensors are compared, notes)."""
    with TemporaryDirectory() as scratch:
        base_folder, adapter_folder = Path(scratch, "base"), Path(scratch, "adapter")
        names = {str(base_folder): model.settings.source.uri}
        try:
            whole = write_outline(SOURCE_PARAMETER[model.settings.kind], _base_files(model), base_folder)
            if adapter:
                names[str(adapter_folder)] = uri = adapter.resolved.uri
                files = {name: (storage.join(uri, name), size) for name, size in adapter.sizes.items()}
                whole = write_outline("adapter_path", files, adapter_folder) and whole
            if p.action == "replace_tokens":
                renamed(adapter_folder if adapter else base_folder, p.replacements)
                return False, []
            base, tuned = open_base(base_folder), open_adapter(adapter_folder)
            if isinstance(tuned, Manifest):
                raise not_an_adapter(names[str(adapter_folder)])
            return _judge(p, base, tuned, whole, model.settings.source.uri)
        except UserError as error:
            raise UserError(_as_named(problem, names) for problem in error.problems) from None


def _judge(p: AdapterToolsParameters, base: Folder, adapter: Folder, whole: bool, uri: str) -> tuple[bool, list[str]]:
    if p.action == "vllm":
        if problems := list(vllm_problems(adapter)):
            raise UserError(problems)
        parts = sort_out(adapter)
        # Values are compared where they are at hand; else the tool compares them.
        if whole and (problems := list(differences(adapter, parts, base))):
            raise UserError(problems)
        rank = max_rank(adapter.config["r"])
        return bool(parts.left_out), [f"start vLLM with --max-lora-rank {rank}"] if rank > 16 else []
    fit = judge(base, adapter, with_values=whole, called=uri)
    if fit.problems:
        raise UserError(fit.problems)
    return False, fit.notes


def _base_files(model: ModelFound) -> dict[str, tuple[str, int]]:
    """Every file that import_model takes along, under the name that it gets: (path or URI, bytes)."""
    source, layout = model.settings.source, model.layout
    root = source.uri
    if model.settings.kind == "huggingface":
        root = f"hf://{source.uri}@{source.digest}"
        if _offline():
            root = str(hub.resolve(source.uri, source.digest).download(sorted(set(layout.files.values()))))
    files = dict(layout.files)
    if MANIFEST in model.sizes and set(files.values()) == set(model.sizes) - {MANIFEST}:
        files[MANIFEST] = MANIFEST  # an artifact as it is: its digest will be that of the imported model
    return {name: (storage.join(root, path), model.sizes[path]) for name, path in files.items()}


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())


def _as_named(problem: Problem, names: dict[str, str]) -> Problem:
    """Name folders as the user did: an outline lies in a place of its own."""

    def told(text: str) -> str:
        for folder, name in names.items():
            text = text.replace(folder, name.rstrip("/"))
        return text

    return replace(problem, where=told(problem.where), found=told(problem.found), expected=told(problem.expected),
                   fix=told(problem.fix))  # fmt: skip
